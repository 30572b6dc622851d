// Package controllers carries the plan out: it reads what the plan needs from the caches, lets
// package plan decide, and writes the difference. Every write carries what was seen, so that the
// API server refuses it when somebody was faster.
//
// # What the operator may do
//
// It needs these rights and no others:
//
//	""                     nodes                                       get list watch
//	networking.k8s.io      servicecidrs                                list watch
//	weftnet.io             ippools, meshconfigs                        list watch
//	weftnet.io             meshnodes                                   get list watch create update
//	weftnet.io             nodeblocks                                  get list watch create delete
//	weftnet.io             meshnodes/status                            patch
//	weftnet.io             nodeblocks/status, ippools/status,
//	                       meshconfigs/status                          update
//	events.k8s.io          events            (namespace default)       create patch
//	coordination.k8s.io    leases            (own namespace)           create, and get update of weftnet-operator
//	""                     events            (own namespace)           create patch
package controllers
