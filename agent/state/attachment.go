package state

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The beginnings of the names of a Pod's links on the host, with the hash that both share.
const (
	// PodLinkPrefix begins the host end of a Pod's veth pair.
	PodLinkPrefix = "weftp"
	// PodIFBPrefix begins the link through which a Pod's egress bandwidth is shaped.
	PodIFBPrefix = "weftb"
)

// PodLinkHash is the part of the link names that stands for one attachment. Ten hexadecimal digits
// fill the name of a link (15 bytes); two of 110 Pods share one with a probability of 5e-9.
func PodLinkHash(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(containerID + "\x00" + ifName))
	return hex.EncodeToString(sum[:5])
}

// PodLinkName is the name of the host end of the attachment's veth pair.
func PodLinkName(containerID, ifName string) string {
	return PodLinkPrefix + PodLinkHash(containerID, ifName)
}

// IPProtocol is a transport protocol by its number in the IP header.
type IPProtocol uint8

// The protocols of Kubernetes.
const (
	TCP  IPProtocol = 6
	UDP  IPProtocol = 17
	SCTP IPProtocol = 132
)

func (p IPProtocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	default:
		return fmt.Sprintf("protocol(%d)", uint8(p))
	}
}

// HostPort publishes a port of a Pod on its node.
type HostPort struct {
	Protocol IPProtocol `json:"protocol"`
	// HostIP is the address of the node to listen on. It fixes the family: 0.0.0.0 means every
	// IPv4 address, :: every IPv6 address, the zero value every address of both.
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
}

// Conflicts tells whether both claim the same port of the node.
func (h HostPort) Conflicts(o HostPort) bool {
	if h.Protocol != o.Protocol || h.HostPort != o.HostPort {
		return false
	}
	if !h.HostIP.IsValid() || !o.HostIP.IsValid() || h.HostIP == o.HostIP {
		return true
	}
	return FamilyOf(h.HostIP) == FamilyOf(o.HostIP) && (h.HostIP.IsUnspecified() || o.HostIP.IsUnspecified())
}

// Compare orders by protocol, port, then address.
func (h HostPort) Compare(o HostPort) int {
	return cmp.Or(cmp.Compare(h.Protocol, o.Protocol), cmp.Compare(h.HostPort, o.HostPort),
		h.HostIP.Compare(o.HostIP), cmp.Compare(h.ContainerPort, o.ContainerPort))
}

func (h HostPort) String() string {
	host := "*"
	if h.HostIP.IsValid() {
		host = h.HostIP.String()
	}
	return fmt.Sprintf("%s %s:%d -> %d", h.Protocol, host, h.HostPort, h.ContainerPort)
}

// Bandwidth limits a Pod's traffic, in bits per second and bits. Ingress is towards the Pod. A rate
// of zero means no limit.
type Bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// PodRef names a Pod in the API. It is empty when the runtime does not say.
type PodRef struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

func (p PodRef) String() string {
	if p.Name == "" {
		return "unknown pod"
	}
	return p.Namespace + "/" + p.Name
}

// Attachment is one interface of one Pod: what CNI ADD made and CNI DEL takes away. Its identity is
// HostLink.
type Attachment struct {
	// HostLink is the name of the host end of the veth pair.
	HostLink string `json:"hostLink"`
	// ContainerID and IfName are the runtime's names for it. They are empty when the attachment
	// was rebuilt from what the kernel has.
	ContainerID string `json:"containerID,omitempty"`
	IfName      string `json:"ifName,omitempty"`
	// Network is the name of the CNI network.
	Network string `json:"network,omitempty"`
	Pod     PodRef `json:"pod,omitzero"`
	// Addresses of the Pod, sorted: at most one of a family.
	Addresses []netip.Addr `json:"addresses"`
	// MTU that both ends were given, in bytes; zero when nobody wrote it down.
	MTU       int        `json:"mtu,omitempty"`
	HostPorts []HostPort `json:"hostPorts,omitempty"`
	Bandwidth Bandwidth  `json:"bandwidth,omitzero"`
}

// Equal tells whether every field is the same.
func (a Attachment) Equal(o Attachment) bool {
	return a.HostLink == o.HostLink && a.ContainerID == o.ContainerID && a.IfName == o.IfName &&
		a.Network == o.Network && a.Pod == o.Pod && a.Bandwidth == o.Bandwidth && a.MTU == o.MTU &&
		slices.Equal(a.Addresses, o.Addresses) && slices.Equal(a.HostPorts, o.HostPorts)
}

// Compare orders attachments by the name of their host link.
func (a Attachment) Compare(o Attachment) int { return cmp.Compare(a.HostLink, o.HostLink) }

// String is one line for logs.
func (a Attachment) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", a.HostLink, a.Pod)
	for _, ip := range a.Addresses {
		b.WriteString(" " + ip.String())
	}
	for _, h := range a.HostPorts {
		b.WriteString(" [" + h.String() + "]")
	}
	return b.String()
}

// Clone shares nothing with the original.
func (a Attachment) Clone() Attachment {
	a.Addresses = slices.Clone(a.Addresses)
	a.HostPorts = slices.Clone(a.HostPorts)
	return a
}
