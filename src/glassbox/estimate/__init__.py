"""What a study will need before it runs: samples and steps, disk, memory and time, from settings and configurations."""
