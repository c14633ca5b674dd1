"""The rows of `make bench`: each module measures one or a few of them, side by side with what they are compared to."""
