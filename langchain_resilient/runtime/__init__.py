"""One model at work: from the options of a call to its answer."""
