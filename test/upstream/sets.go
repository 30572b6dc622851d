package main

import "strings"

type set struct{ focus, skip string }

// dozen names a few conformance tests that between them cross everything Weftnet does with
// kube-proxy beside it: Pods and nodes over TCP and UDP, DNS, Services of each kind, hostPort and
// the API server's own way to a Pod.
var dozen = []string{
	`Networking Granular Checks: Pods should function for intra-pod communication: http`,
	`Networking Granular Checks: Pods should function for intra-pod communication: udp`,
	`Networking Granular Checks: Pods should function for node-pod communication: http`,
	`Networking Granular Checks: Pods should function for node-pod communication: udp`,
	`DNS should provide DNS for services`,
	`DNS should provide DNS for pods for Hostname`,
	`DNS should support configurable pod DNS nameservers`,
	`Services should serve a basic endpoint from pods`,
	`Services should serve multiport endpoints from pods`,
	`Services should be able to create a functioning NodePort service`,
	`Services should be able to change the type from ExternalName to NodePort`,
	`Services should have session affinity work for NodePort service`,
	`HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol`,
	`Proxy version v1 should proxy through a service and a pod`,
}

var sets = map[string]set{
	"conformance": {focus: `\[sig-network\].*\[Conformance\]`, skip: `Serial|Disruptive`},
	"dozen":       {focus: `\[sig-network\] (` + strings.Join(dozen, "|") + `).*\[Conformance\]`, skip: `Serial|Disruptive`},
}
