//go:build linux

// Package kubeproxy finds out whether a kube-proxy serves this node beside Weftnet's own service
// proxy, or has left its rules behind. Two proxies agree as long as both follow the same Services;
// one that has ended leaves rules that grow stale, and these win or lose by the order of tables.
package kubeproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	kernel "github.com/weftnet/weftnet/agent/kernel/kubeproxy"
)

// Where kube-proxy answers unless it was told otherwise (pkg/proxy/apis/config of Kubernetes).
const (
	modeURL   = "http://localhost:10249/proxyMode"
	healthURL = "http://localhost:10256/healthz"
)

// Header marks the answers of Weftnet's own servers, in case one answers where kube-proxy would.
const Header = "X-Weftnet"

const patience = 2 * time.Second

// Finding is what was found.
type Finding struct {
	// Running says that a kube-proxy answers on this node.
	Running bool
	// Mode that it works in, or that its rules are of; several are joined by commas.
	Mode string
	// Rules says that the kernel holds rules of kube-proxy's.
	Rules bool
}

// Present says whether there is anything of kube-proxy's.
func (f Finding) Present() bool { return f.Running || f.Rules }

// Reasons of the condition, in the words that a person may search for.
const (
	ReasonRunning  = "KubeProxyRunning"
	ReasonLeftover = "KubeProxyRulesLeft"
	ReasonAbsent   = "NoKubeProxy"
)

// Reason is the finding in one word.
func (f Finding) Reason() string {
	switch {
	case f.Running:
		return ReasonRunning
	case f.Rules:
		return ReasonLeftover
	default:
		return ReasonAbsent
	}
}

// Message tells the finding and what to do about it.
func (f Finding) Message() string {
	const command = "`weft cleanup kube-proxy --all-nodes`"
	switch {
	case f.Running:
		return fmt.Sprintf("kube-proxy runs on this node%s beside Weftnet's service proxy: remove it, then its rules with %s", inMode(f.Mode), command)
	case f.Rules:
		return fmt.Sprintf("rules of kube-proxy are in this node's kernel%s and nothing answers at its usual ports: if it has ended, remove them with %s", inMode(f.Mode), command)
	default:
		return "no kube-proxy answers on this node, and it has no rules in the kernel"
	}
}

func inMode(mode string) string {
	if mode == "" {
		return ""
	}
	return " (" + mode + " mode)"
}

// Kernel is what is asked of the kernel.
type Kernel interface {
	Modes() ([]string, error)
}

// Look asks the ports and the kernel once.
func Look(ctx context.Context, k Kernel) (Finding, error) {
	modes, err := k.Modes()
	f := Finding{Rules: len(modes) > 0, Mode: strings.Join(modes, ",")}
	if mode, answers := askMode(ctx, modeURL); answers {
		f.Running, f.Mode = true, mode
	} else if askHealth(ctx, healthURL) {
		f.Running = true
	}
	return f, err
}

// askMode asks a kube-proxy for its mode. Whatever else may listen there does not answer with one.
func askMode(ctx context.Context, url string) (string, bool) {
	body, err := get(ctx, url)
	mode := strings.TrimSpace(string(body))
	return mode, err == nil && slices.Contains([]string{kernel.NFTables, kernel.IPTables, kernel.IPVS}, mode)
}

// askHealth recognizes the answer of kube-proxy, healthy or not.
func askHealth(ctx context.Context, url string) bool {
	body, err := get(ctx, url)
	var answer struct {
		LastUpdated, CurrentTime string
	}
	return err == nil && json.Unmarshal(body, &answer) == nil && answer.LastUpdated != "" && answer.CurrentTime != ""
}

var errOurs = errors.New("the answer is Weftnet's own")

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", url, err)
	}
	// No connection may outlive the question, and no proxy of the environment stands between.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", url, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.Header.Get(Header) != "" {
		return nil, errOurs
	}
	const most = 4096
	return io.ReadAll(io.LimitReader(answer.Body, most))
}
