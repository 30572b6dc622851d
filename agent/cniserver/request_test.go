//go:build linux

package cniserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/weftnet/weftnet/agent/ipam"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/cni/wire"
)

// parse reads a request as it comes from the plugin.
func parse(h wire.Header, config string) (request, *types.Error) {
	frame := wire.AppendRequest(nil, h, []byte(config))
	n, _, err := wire.ParseRequestHead(frame)
	if err != nil {
		panic(err)
	}
	return parseRequest(frame[wire.HeadSize:wire.HeadSize+n], frame[wire.HeadSize+n:])
}

func TestParseRequest(t *testing.T) {
	h := wire.Header{
		Command: "ADD", ContainerID: "abc", IfName: "eth0", Netns: "/run/netns/x",
		Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u1",
	}
	r, fail := parse(h, `{"cniVersion":"1.0.0","name":"weftnet","type":"weftnet","unknown":[1],"runtimeConfig":{
		"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"TCP"},{"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"::ffff:192.0.2.1"},
			{"hostPort":80,"containerPort":8080,"protocol":"tcp"},{"containerPort":9}],
		"bandwidth":{"ingressRate":1000,"egressBurst":5}}}`)
	if fail != nil {
		t.Fatal(fail)
	}
	want := state.Attachment{
		HostLink: state.PodLinkName("abc", "eth0"), ContainerID: "abc", IfName: "eth0", Network: "weftnet",
		Pod: state.PodRef{Namespace: "default", Name: "web-0", UID: "u1"},
		HostPorts: []state.HostPort{
			{Protocol: state.TCP, HostPort: 80, ContainerPort: 8080},
			{Protocol: state.UDP, HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 53, ContainerPort: 53},
		},
		Bandwidth: state.Bandwidth{IngressRate: 1000, EgressBurst: 5},
	}
	if !r.attachment.Equal(want) {
		t.Errorf("got  %+v\nwant %+v", r.attachment, want)
	}
}

func TestVerbsByVersion(t *testing.T) {
	first := map[string]string{"ADD": "0.3.1", "DEL": "0.3.1", "CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
	for command, from := range first {
		for _, v := range []string{"", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0", "x"} {
			_, fail := parse(wire.Header{Command: command, ContainerID: "a", IfName: "eth0", Netns: "/n"}, fmt.Sprintf(`{"cniVersion":%q,"name":"weftnet"}`, v))
			known := slices.Contains(supported, v)
			if ok := known && v >= from; ok != (fail == nil) {
				t.Errorf("%s in version %q: %v", command, v, fail)
			} else if !ok && fail.Code != types.ErrIncompatibleCNIVersion {
				t.Errorf("%s in version %q: code %d", command, v, fail.Code)
			}
		}
	}
}

func TestDelIsNotPicky(t *testing.T) {
	_, fail := parse(wire.Header{Command: "DEL", ContainerID: "a", IfName: "eth0"}, `{"cniVersion":"1.0.0","name":"weftnet","runtimeConfig":{"portMappings":[{"hostPort":99999}]}}`)
	if fail != nil {
		t.Errorf("a DEL was refused: %v", fail)
	}
}

func TestConflictWithinOnePod(t *testing.T) {
	_, err := hostPorts([]portMapping{
		{HostPort: 80, ContainerPort: 1, HostIP: "0.0.0.0"}, {HostPort: 80, ContainerPort: 2, HostIP: "192.0.2.1"}, {HostPort: 80, ContainerPort: 3, HostIP: "::"},
	})
	if err == nil || !strings.Contains(err.Error(), "entry 1") || strings.Contains(err.Error(), "entry 2") {
		t.Errorf("got %v", err)
	}
}

// TestResultInEveryVersion reads the result back with the library that runtimes use.
func TestResultInEveryVersion(t *testing.T) {
	a := state.Attachment{
		HostLink: "weftp0123456789", IfName: "eth0",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:10:244:1::2")},
	}
	for _, v := range supported {
		r := request{Header: wire.Header{Netns: "/run/netns/x"}, conf: netConf{CNIVersion: v, DNS: types.DNS{Nameservers: []string{"10.96.0.10"}}}}
		out, err := result(r, a, 1420)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := create.Create(v, out); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		for _, want := range []string{`"10.244.1.2/32"`, `"fd00:10:244:1::2/128"`, `"169.254.1.1"`, `"fe80::1"`, `"0.0.0.0/0"`, `"::/0"`, `"/run/netns/x"`, `"10.96.0.10"`} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: no %s in %s", v, want, out)
			}
		}
		if mtu := strings.Contains(string(out), `"mtu": 1420`); mtu != (v >= "1.0.0") {
			t.Errorf("%s: MTU in the result: %t", v, mtu) // the library gives it from 1.0.0 on
		}
	}
}

func TestErrorCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code uint
	}{
		{&ipam.ExhaustedError{Family: state.IPv4, Used: 3}, codeExhausted},
		{&ipam.ExhaustedError{Family: state.IPv4, Used: 3, Cooling: 1, Next: time.Second}, types.ErrTryAgainLater},
		{ipam.ErrNoBlocks, types.ErrTryAgainLater},
		{&conflictError{}, codeHostPortUsed},
		{pod.ErrInUse, types.ErrInvalidNetNS},
		{errors.New("other"), types.ErrInternal},
		{types.NewError(types.ErrUnknownContainer, "x", ""), types.ErrUnknownContainer},
	} {
		if got := cniError("ADD", fmt.Errorf("wrapped: %w", c.err)); got.Code != c.code {
			t.Errorf("%v: code %d, want %d", c.err, got.Code, c.code)
		}
	}
}

// FuzzParseRequest : whatever comes over the socket is judged without a panic, and what is accepted
// holds what the rest relies on.
func FuzzParseRequest(f *testing.F) {
	for _, command := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		h, _ := json.Marshal(wire.Header{Command: command, ContainerID: "a", IfName: "eth0", Netns: "/n", Args: "A=B;;=;K8S_POD_NAME=x"})
		f.Add(h, []byte(`{"cniVersion":"1.1.0","name":"weftnet","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":2,"hostIP":"::1"}],"bandwidth":{"ingressRate":1}},"cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}]}`))
	}
	f.Add([]byte(`{}`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, header, config []byte) {
		r, fail := parseRequest(header, config)
		if fail != nil {
			return
		}
		a := r.attachment
		if needs := r.Command == "ADD" || r.Command == "CHECK"; needs && (a.HostLink == "" || len(a.HostLink) > 15 || r.Netns == "" || r.conf.Name == "") {
			t.Errorf("accepted %+v", r)
		}
		for _, h := range a.HostPorts {
			if h.HostPort == 0 || h.ContainerPort == 0 || h.Protocol == 0 {
				t.Errorf("accepted host port %v", h)
			}
		}
	})
}
