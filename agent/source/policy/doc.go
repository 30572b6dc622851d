// Package policy watches what network policies are made of: Pods, Namespaces, Nodes, NetworkPolicies
// and, where their CRD is installed, ClusterNetworkPolicies. What changes is handed on by key, as plain
// values; it knows whether every list has been read, so that nobody opens or deletes anything on
// partial knowledge. While the API server is away the last known state stays.
package policy
