// Package policy answers whether network policies let one Pod (or address) reach another, and which of
// them decided. It asks the evaluator by which the agents' rules are made.
package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// End is one end of a flow: a Pod or an address.
type End struct {
	Pod snapshot.NamespacedName
	IP  netip.Addr
	// Port and PortName are two ways to say the port; neither where none was given.
	Port     uint16
	PortName string
}

// String is the end as it is asked for, without its port.
func (e End) String() string {
	if e.IP.IsValid() {
		return e.IP.String()
	}
	return e.Pod.String()
}

// Question is what is asked.
type Question struct {
	From, To End
	Protocol uint8
}

// protocols by the names that are taken.
var protocols = map[string]uint8{"tcp": state.ProtoTCP, "udp": state.ProtoUDP, "sctp": state.ProtoSCTP, "icmp": 1, "icmpv6": state.ProtoICMPv6}

// protocolName is how a protocol is shown.
func protocolName(p uint8) string {
	for name, n := range protocols {
		if n == p {
			return name
		}
	}
	return strconv.Itoa(int(p))
}

func hasPorts(protocol uint8) bool {
	return protocol == state.ProtoTCP || protocol == state.ProtoUDP || protocol == state.ProtoSCTP
}

// Ask makes a question of what the user wrote.
func Ask(from, to, protocol string) (Question, error) {
	var q Question
	var err error
	var known bool
	if q.Protocol, known = protocols[strings.ToLower(protocol)]; !known {
		return q, fmt.Errorf("--protocol %s: want tcp, udp, sctp or icmp", protocol)
	}
	if q.From, err = parseEnd(from); err != nil {
		return q, fmt.Errorf("--from %s: %w", from, err)
	}
	if q.To, err = parseEnd(to); err != nil {
		return q, fmt.Errorf("--to %s: %w", to, err)
	}
	if q.From.Port != 0 || q.From.PortName != "" {
		return q, fmt.Errorf("--from %s: policies do not look at source ports; leave it out", from)
	}
	given := q.To.Port != 0 || q.To.PortName != ""
	switch {
	case hasPorts(q.Protocol) && !given:
		return q, fmt.Errorf("--to %s: a port is missing, for example %s:80", to, to)
	case !hasPorts(q.Protocol) && given:
		return q, fmt.Errorf("--to %s: %s has no ports; leave it out", to, protocol)
	case q.To.PortName != "" && q.To.IP.IsValid():
		return q, fmt.Errorf("--to %s: a port has a name only at a Pod; give its number", to)
	}
	return q, nil
}

// parseEnd reads NAMESPACE/POD, NAMESPACE/POD:PORT, an address, or an address with a port.
func parseEnd(text string) (End, error) {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return End{IP: a.Unmap()}, nil
	}
	if a, err := netip.ParseAddrPort(text); err == nil && a.Port() != 0 {
		return End{IP: a.Addr().Unmap(), Port: a.Port()}, nil
	}
	name, port, hasPort := strings.Cut(text, ":")
	namespace, pod, ok := strings.Cut(name, "/")
	if !ok || namespace == "" || pod == "" || strings.Contains(pod, "/") || hasPort && port == "" {
		return End{}, fmt.Errorf("want NAMESPACE/POD or an IP address, and for the destination :PORT behind it")
	}
	e := End{Pod: snapshot.NamespacedName{Namespace: namespace, Name: pod}}
	if !hasPort {
		return e, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err == nil && n == 0, err != nil && port[0] >= '0' && port[0] <= '9' && strings.Trim(port, "0123456789") == "":
		return End{}, fmt.Errorf("port %s is not one of 1 to 65535", port)
	case err == nil:
		e.Port = uint16(n)
	default:
		e.PortName = port
	}
	return e, nil
}
