// Package policy decides which packets NetworkPolicy and ClusterNetworkPolicy let through, and turns
// that into the table `inet weftnet-policy`. It is pure: an Engine is told of objects and Pods, and says
// what changed in the table.
//
// A packet is judged as it is after destination NAT and before source NAT: at egress where it leaves
// a Pod of this node, at ingress where it enters one, for a packet between two of them both. What cannot
// be honoured of a policy is closed already in the intermediate form (ir.go) that the evaluator
// (evaluate.go), which defines the meaning, and the compiler (profile.go, match.go) both work on.
//
//	forward  10 filter+10  forward  established passes, unless the flow is revoked; a Pod reaches itself;
//	                                then the maps egress (by the link it came from) and ingress (by the
//	                                link it goes to) lead to what judges
//	input    10 filter+10  input    the same for what a Pod sends to its node: egress only, and neighbour
//	                                discovery passes
//
// They stand behind the refusals of Services without endpoints, at filter. What the node itself sends to
// its Pods passes no chain of ours, so no policy can come between the kubelet and a probe. While no Pod of
// the node is selected the table is empty, and costs no packet anything.
//
// Chains of judgement are called after their content and shared by all Pods that the same policies
// select; sets of peers are called after what they follow, and shared by all rules that mean the same.
// A Pod that comes, goes or is labelled anew changes elements; a policy makes a chain and takes one
// away: the new chain stands before anything leads to it, see agent/kernel/nft. Within a chain of judgement nothing jumps, so that a return from anywhere is
// an accept at egress, after which ingress is asked; a Pod with very many policies has them in parts,
// which say so by a bit of the packet's mark (0x00010000) that no packet carries out of the table.
//
// Bit 0x00010000 of a connection's mark says that it is revoked: neither direction passes any more.
package policy
