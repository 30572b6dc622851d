package userspace

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.zx2c4.com/wireguard/device"
)

const savedSuffix = ".conf"

func savedPath(dir, name string) string { return filepath.Join(dir, name+savedSuffix) }

// savedDevices names the devices that have a saved configuration.
func savedDevices(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), savedSuffix); ok {
			names = append(names, name)
		}
	}
	return names
}

func removeSaved(dir, name string) { _ = os.Remove(savedPath(dir, name)) }

// settings turns what a UAPI get tells into what a UAPI set takes: without counters, and with the
// peers in order, so that the same settings give the same text.
func settings(state string) string {
	var head strings.Builder
	var peers []string
	var peer *strings.Builder
	flush := func() {
		if peer != nil {
			peers = append(peers, peer.String())
		}
	}
	for line := range strings.Lines(state) {
		key, _, _ := strings.Cut(line, "=")
		switch key {
		case "public_key":
			flush()
			peer = &strings.Builder{}
			peer.WriteString(line + "replace_allowed_ips=true\n")
		case "private_key", "listen_port", "fwmark":
			head.WriteString(line)
		case "preshared_key", "endpoint", "persistent_keepalive_interval", "allowed_ip":
			if peer != nil {
				peer.WriteString(line)
			}
		}
	}
	flush()
	slices.Sort(peers)
	return head.String() + strings.Join(peers, "")
}

// publicKeys lists the peers of saved settings, and whether each has an endpoint.
func publicKeys(saved string) map[device.NoisePublicKey]bool {
	keys := map[device.NoisePublicKey]bool{}
	var current device.NoisePublicKey
	for line := range strings.Lines(saved) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "public_key":
			raw, err := hex.DecodeString(value)
			if err != nil || len(raw) != len(current) {
				return keys
			}
			current = device.NoisePublicKey(raw)
			keys[current] = false
		case "endpoint":
			keys[current] = true
		}
	}
	return keys
}

func listenPort(saved string) string {
	for line := range strings.Lines(saved) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "listen_port":
			return value
		case "public_key":
			return ""
		}
	}
	return ""
}

// withListenPort puts the wanted port in the place of the one in use, which may be another while
// the wanted one is taken.
func withListenPort(saved, port string) string {
	current := listenPort(saved)
	if port == "" || current == port {
		return saved
	}
	line := "listen_port=" + port + "\n"
	if current == "" {
		return line + saved
	}
	return strings.Replace(saved, "listen_port="+current+"\n", line, 1)
}

func withoutListenPort(saved string) string {
	return strings.Replace(saved, "listen_port="+listenPort(saved)+"\n", "", 1)
}
