// Package filter says what the node's nftables table must hold: it is a pure function from what is
// known of the cluster to the whole table `inet weftnet`.
//
// Hooks, in the order in which a packet meets them:
//
//	prerouting  -300 raw      failclosed-in   before conntrack: a Pod or mesh address may come in only from
//	                                          the mesh, from the Pod that owns it, or from the node itself
//	prerouting  -100 dstnat   hostport-in     a host port of this node leads to its Pod
//	output      -100 dstnat   hostport-out    the same for the node's own connections
//	postrouting  100 srcnat   masquerade      Pods leave the cluster with the node's address
//	postrouting  300          failclosed-out  after NAT: a Pod or mesh address may leave only into the mesh,
//	                                          to a Pod of this node or to the node itself; TCP
//	                                          handshakes into the mesh take the route's MTU
//
// Two of them see every packet, failclosed-in and failclosed-out, and decide what Pods send each other
// by their first rules; those for address translation see the first packet of a connection.
//
// Nothing here depends on which peers or devices exist at the moment: every mesh device, Pod
// interface and helper is called weft*, and the cluster's ranges, the nodes' addresses, the Pods with
// their addresses and the host ports are set elements. The rules are therefore the same on every node
// and for as long as the agent lives, and they stand while it is dead. Packets of the mesh itself, WireGuard's datagrams
// between node addresses, pass untouched; a relay for them, once there is one, is a chain at dstnat
// and masquerade in their company, and needs nothing from the fail-closed chains.
package filter
