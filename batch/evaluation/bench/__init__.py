"""Suites of measurements on this machine: what is compared runs side by side in one process."""
