"""What each command of ``dpc`` takes, a file a command; what it does is beside this folder."""
