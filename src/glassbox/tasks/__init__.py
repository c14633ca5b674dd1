"""Tasks: one module each for how an item is put and judged, and the sources that items come from."""
