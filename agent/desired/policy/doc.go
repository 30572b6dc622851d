// Package policy decides which packets NetworkPolicy and ClusterNetworkPolicy let through, and turns
// that into the table `inet weftnet-policy`. It is pure: an Engine is told of objects and Pods, and says
// what changed in the table.
//
// A packet is judged as it is after destination NAT and before source NAT: at egress where it leaves
// a Pod of this node, at ingress where it enters one, for a packet between two of them both.
package policy
