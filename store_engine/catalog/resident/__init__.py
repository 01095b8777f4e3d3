"""The catalogue in memory of a device that stays where it is, with room to grow."""
