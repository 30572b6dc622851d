// Package control says how the control plane's programs are called. It is
// pure: the cluster package starts them, all in the first node's namespace.
package control

import (
	"net/netip"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/pki"
)

// The programs, in the order of their start.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
)

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// Names lists the programs in the order of their start.
func Names() []string { return []string{Etcd, APIServer, ControllerManager, Scheduler} }

// Config is what the arguments depend on.
type Config struct {
	Family layout.Family
	PKI    *pki.Authority
	// Data is etcd's folder.
	Data string
	// Kubeconfig gives the file of a component's client configuration.
	Kubeconfig func(name string) string
}

// Subjects are the certificates of the control plane, by the name of their file.
func Subjects(family layout.Family) map[string]pki.Subject {
	server := pki.Subject{
		Name: APIServer,
		DNS: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc." + layout.Domain, "localhost", layout.Node(1).String(),
		},
		IPs: append(layout.APIService(family), loopback...),
	}
	for _, p := range layout.Node(1).Addrs(family) {
		server.IPs = append(server.IPs, p.Addr())
	}
	return map[string]pki.Subject{
		"apiserver":                server,
		"admin":                    {Name: "admin", Groups: []string{"system:masters"}},
		"apiserver-kubelet-client": {Name: "apiserver-kubelet-client", Groups: []string{"system:masters"}},
		"front-proxy":              {Name: "front-proxy"},
		"kube-proxy":               {Name: "system:kube-proxy"},
		ControllerManager:          {Name: "system:kube-controller-manager"},
		Scheduler:                  {Name: "system:kube-scheduler"},
	}
}

// Args are a program's arguments.
func Args(name string, c Config) []string {
	switch name {
	case Etcd:
		return etcdArgs(c)
	case APIServer:
		return apiServerArgs(c)
	case ControllerManager:
		return controllerManagerArgs(c)
	case Scheduler:
		return []string{
			"--kubeconfig=" + c.Kubeconfig(Scheduler),
			"--leader-elect=false",
			"--bind-address=127.0.0.1",
		}
	default:
		return nil
	}
}

func etcdArgs(c Config) []string {
	return []string{
		"--name=tb",
		"--data-dir=" + c.Data,
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=tb=http://127.0.0.1:2380",
		// Safe against the end of a process, which is all that happens here.
		"--unsafe-no-fsync",
	}
}

func apiServerArgs(c Config) []string {
	bind := "::"
	if c.Family == layout.IPv4 {
		bind = "0.0.0.0"
	}
	a := c.PKI
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--service-cluster-ip-range=" + layout.Join(layout.ServiceCIDRs(c.Family)),
		"--bind-address=" + bind,
		"--advertise-address=" + layout.APIServer(c.Family).Addr().String(),
		"--secure-port=6443",
		"--tls-cert-file=" + a.Cert("apiserver"),
		"--tls-private-key-file=" + a.Key("apiserver"),
		"--client-ca-file=" + a.CertFile(),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + a.Cert("sa"),
		"--service-account-signing-key-file=" + a.Key("sa"),
		"--kubelet-client-certificate=" + a.Cert("apiserver-kubelet-client"),
		"--kubelet-client-key=" + a.Key("apiserver-kubelet-client"),
		"--kubelet-certificate-authority=" + a.CertFile(),
		"--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged",
		"--requestheader-client-ca-file=" + a.CertFile(),
		"--requestheader-allowed-names=front-proxy",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + a.Cert("front-proxy"),
		"--proxy-client-key-file=" + a.Key("front-proxy"),
	}
}

func controllerManagerArgs(c Config) []string {
	return []string{
		"--kubeconfig=" + c.Kubeconfig(ControllerManager),
		"--service-account-private-key-file=" + c.PKI.Key("sa"),
		"--root-ca-file=" + c.PKI.CertFile(),
		"--use-service-account-credentials",
		// Its start asks for one token per controller.
		"--kube-api-qps=200",
		"--kube-api-burst=400",
		"--controllers=*,bootstrapsigner,tokencleaner",
		"--cluster-signing-cert-file=" + c.PKI.CertFile(),
		"--cluster-signing-key-file=" + c.PKI.Key("ca"),
		"--service-cluster-ip-range=" + layout.Join(layout.ServiceCIDRs(c.Family)),
		// The Pod CIDRs are the network's business.
		"--allocate-node-cidrs=false",
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
	}
}
