//go:build linux

// Package nflog reads the packets that rules send to a netlink log group: the head of each, and the
// text that the rule gave it. Only one reader may have a group in a network namespace. While nobody
// reads, the kernel throws the packets' copies away; the rules do the same either way.
package nflog
