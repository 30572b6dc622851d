//go:build linux

// Package flow gives the packets of established connections between two Pods of this node a fast path,
// past routing and the rules: a program at the host end of each Pod's link asks the node's connection
// tracking and hands the packet into the other Pod. Of echoes of ICMP it cannot ask: a second program, where
// the ordinary way leads out to a Pod, notes those that come through.
//
// What the program does not know, it lets through to the ordinary way. So the fast path may be absent or
// behind at any moment and no connection is worse for it, with one exception: an address must be taken
// away before it may be another Pod's. Notes of echoes have to be voided when what is allowed has changed; they
// end by themselves soon.
//
// The programs stay in their places when the agent ends. Nobody gives addresses or changes policies then, and
// a packet for a Pod that is gone is lost, as it would be anyway. The next agent begins with Clear: it knows
// nothing of what the tables hold.
package flow
