package wg

import (
	_ "github.com/vishvananda/netlink"
	_ "github.com/weftnet/weftnet/agent/reconcile"
	_ "github.com/weftnet/weftnet/crds/v1alpha1"
)
