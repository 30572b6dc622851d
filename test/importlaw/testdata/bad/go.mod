// A house that breaks every import law, for the law's own test. The libraries are empty shells
// with the names of the real ones.
module github.com/weftnet/weftnet

go 1.26.0

require (
	github.com/vishvananda/netlink v0.0.0
	golang.zx2c4.com/wireguard v0.0.0
	k8s.io/apimachinery v0.0.0
	k8s.io/client-go v0.0.0
)

replace (
	github.com/vishvananda/netlink => ./libraries/netlink
	golang.zx2c4.com/wireguard => ./libraries/wireguard
	k8s.io/apimachinery => ./libraries/apimachinery
	k8s.io/client-go => ./libraries/client-go
)
