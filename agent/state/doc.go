// Package state holds the plain values that a node's network is made of: keys, peers, devices,
// links, routes, rules and nftables objects. It imports the standard library only, so that the
// pure stages that compute a wanted state and the kernel packages that apply it share one
// vocabulary and nothing else.
//
// Every type can be compared, sorted and printed; none of these changes or aliases its arguments.
package state
