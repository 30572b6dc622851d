//go:build linux

// Package wire is netlink as it goes over the socket: attributes, requests with their replies, and
// events. The kernel packages build on it where they need what the usual libraries hide: which step
// of a transaction was refused, who caused an event, or a listing that the kernel filters by owner.
package wire
