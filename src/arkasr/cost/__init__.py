"""What a recipe would cost on given devices: operations, bytes and the ceilings that they are held against."""
