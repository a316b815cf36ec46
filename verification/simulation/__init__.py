"""The hedging engine over scripted targets, in virtual time: see the README."""
