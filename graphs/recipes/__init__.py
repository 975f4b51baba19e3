"""Published methods whose novel part belongs to this room, one file each."""
