"""The peers, each in the few lines that its own documentation asks for; imported only where a peer is called."""
