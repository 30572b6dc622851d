//go:build linux

package cniserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/cni/wire"
)

// supported are the versions of the CNI specification that are spoken.
var supported = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// since is the version of the specification in which a verb came.
var since = map[string]string{"ADD": "0.3.1", "DEL": "0.3.1", "CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}

// netConf is the network configuration as far as the agent reads it.
type netConf struct {
	CNIVersion    string          `json:"cniVersion"`
	Name          string          `json:"name"`
	Type          string          `json:"type"`
	DNS           types.DNS       `json:"dns"`
	PrevResult    json.RawMessage `json:"prevResult"`
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
		Bandwidth    *bandwidth    `json:"bandwidth"`
	} `json:"runtimeConfig"`
	// ValidAttachments is nil when the key is missing, which is not the same as an empty list.
	ValidAttachments *[]types.GCAttachment `json:"cni.dev/valid-attachments"`
}

type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

// request is one call of the plugin, judged.
type request struct {
	wire.Header
	conf netConf
	// attachment has everything but the addresses.
	attachment state.Attachment
	// netns is the descriptor of the Pod's namespace, -1 when none came.
	netns int
}

// parseRequest judges a call. It has no effect.
func parseRequest(header, config []byte) (request, *types.Error) {
	r := request{netns: -1}
	if err := json.Unmarshal(header, &r.Header); err != nil {
		return r, types.NewError(types.ErrDecodingFailure, "the request is not one of the Weftnet plugin", err.Error())
	}
	first, known := since[r.Command]
	if !known {
		return r, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("unknown CNI_COMMAND %q", r.Command), "")
	}
	if err := json.Unmarshal(config, &r.conf); err != nil {
		return r, types.NewError(types.ErrDecodingFailure, "the network configuration is not valid JSON for Weftnet", err.Error())
	}
	if err := checkVersion(r.Command, first, r.conf.CNIVersion); err != nil {
		return r, err
	}
	if err := utils.ValidateNetworkName(r.conf.Name); err != nil {
		return r, types.NewError(types.ErrInvalidNetworkConfig, "the name of the network is not valid", err.Error())
	}
	if r.Command == "STATUS" || r.Command == "GC" {
		return r, nil
	}
	return r, r.parseAttachment()
}

func checkVersion(command, first, asked string) *types.Error {
	if !slices.Contains(supported, asked) {
		return types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("CNI version %q is not supported", asked), fmt.Sprintf("supported: %q", supported))
	}
	if old, err := version.GreaterThan(first, asked); err != nil || old {
		return types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("%s came with CNI version %s, and the configuration says %s", command, first, asked), "")
	}
	return nil
}

// parseAttachment reads whom the call is about, and what the runtime wants for it.
func (r *request) parseAttachment() *types.Error {
	if err := utils.ValidateContainerID(r.ContainerID); err != nil {
		return err
	}
	if err := utils.ValidateInterfaceName(r.IfName); err != nil {
		return err
	}
	if r.Command != "DEL" && r.Netns == "" {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_NETNS is missing", "")
	}
	args := parseArgs(r.Args)
	r.attachment = state.Attachment{
		HostLink:    state.PodLinkName(r.ContainerID, r.IfName),
		ContainerID: r.ContainerID,
		IfName:      r.IfName,
		Network:     r.conf.Name,
		Pod:         state.PodRef{Namespace: args["K8S_POD_NAMESPACE"], Name: args["K8S_POD_NAME"], UID: args["K8S_POD_UID"]},
	}
	if r.Command == "DEL" {
		return nil // whatever the rest says, the attachment goes
	}
	var err error
	if r.attachment.HostPorts, err = hostPorts(r.conf.RuntimeConfig.PortMappings); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "runtimeConfig.portMappings is not valid", err.Error())
	}
	if b := r.conf.RuntimeConfig.Bandwidth; b != nil {
		r.attachment.Bandwidth = state.Bandwidth(*b)
	}
	return nil
}

// parseArgs reads CNI_ARGS: pairs "key=value", separated by semicolons.
func parseArgs(text string) map[string]string {
	out := map[string]string{}
	for pair := range strings.SplitSeq(text, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			out[key] = value
		}
	}
	return out
}

func hostPorts(mappings []portMapping) ([]state.HostPort, error) {
	var out []state.HostPort
	var errs []error
	for i, m := range mappings {
		if m.HostPort == 0 {
			continue // runtimes list container ports that are not published, too
		}
		h, err := hostPort(m)
		if err != nil {
			errs = append(errs, fmt.Errorf("entry %d: %w", i, err))
			continue
		}
		for _, other := range out {
			if h != other && h.Conflicts(other) {
				errs = append(errs, fmt.Errorf("entry %d: %s conflicts with %s", i, h, other))
			}
		}
		out = append(out, h)
	}
	slices.SortFunc(out, state.HostPort.Compare)
	return slices.Compact(out), errors.Join(errs...)
}

func hostPort(m portMapping) (state.HostPort, error) {
	var h state.HostPort
	switch strings.ToLower(m.Protocol) {
	case "tcp", "":
		h.Protocol = state.TCP
	case "udp":
		h.Protocol = state.UDP
	case "sctp":
		h.Protocol = state.SCTP
	default:
		return h, fmt.Errorf("protocol %q is not tcp, udp or sctp", m.Protocol)
	}
	if m.HostPort < 1 || m.HostPort > math.MaxUint16 || m.ContainerPort < 1 || m.ContainerPort > math.MaxUint16 {
		return h, fmt.Errorf("hostPort %d and containerPort %d must be in 1 to 65535", m.HostPort, m.ContainerPort)
	}
	h.HostPort, h.ContainerPort = uint16(m.HostPort), uint16(m.ContainerPort)
	if m.HostIP != "" {
		ip, err := netip.ParseAddr(m.HostIP)
		if err != nil || ip.Zone() != "" {
			return h, fmt.Errorf("hostIP %q is not an IP address", m.HostIP)
		}
		h.HostIP = ip.Unmap()
	}
	return h, nil
}
