// Package object turns the Kubernetes objects that policies are made of into plain values, for
// everybody who judges them alike: the agent, the operator and the weft command. It keeps what the
// policy engine looks at and nothing else, and holds equal texts once, since there are as many Pods as
// the cluster has.
package object
