"""What a version is worth: pictures and scores, from committed versions."""
