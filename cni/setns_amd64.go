//go:build linux

package main

// sysSetns is the number of setns(2), which package syscall does not name on this architecture.
const sysSetns = 308
