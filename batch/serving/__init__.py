"""A model that stays loaded, asked again and again: at a prompt or over HTTP."""
