package reconcile

import (
	_ "github.com/vishvananda/netlink"
	_ "github.com/weftnet/weftnet/operator/controllers"
	_ "golang.zx2c4.com/wireguard"
)
