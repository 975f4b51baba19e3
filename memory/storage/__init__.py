"""Where everything lies: one database for all stores, hash chains, values kept once."""
