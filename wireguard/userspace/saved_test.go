package userspace

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

func hexKey(n byte) string { return strings.Repeat(fmt.Sprintf("%02x", n), 32) }

func peerState(n byte, allowed string) string {
	return "public_key=" + hexKey(n) + "\npreshared_key=" + hexKey(0) + "\nprotocol_version=1\n" +
		"endpoint=192.0.2.1:51820\nlast_handshake_time_sec=17\nlast_handshake_time_nsec=4\ntx_bytes=12\nrx_bytes=13\n" +
		"persistent_keepalive_interval=25\nallowed_ip=" + allowed + "\n"
}

func peerSettings(n byte, allowed string) string {
	return "public_key=" + hexKey(n) + "\nreplace_allowed_ips=true\npreshared_key=" + hexKey(0) + "\n" +
		"endpoint=192.0.2.1:51820\npersistent_keepalive_interval=25\nallowed_ip=" + allowed + "\n"
}

func TestSettingsHaveNoCountersAndAFixedOrder(t *testing.T) {
	head := "private_key=" + hexKey(8) + "\nlisten_port=51820\nfwmark=7\n"
	want := head + peerSettings(1, "10.0.1.0/24") + peerSettings(2, "fd00::/64")
	for _, state := range []string{
		head + peerState(1, "10.0.1.0/24") + peerState(2, "fd00::/64"),
		head + peerState(2, "fd00::/64") + peerState(1, "10.0.1.0/24"),
	} {
		if got := settings(state); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	if got := settings(want); !strings.Contains(got, hexKey(2)) || strings.Contains(got, "bytes") {
		t.Errorf("settings of settings: %s", got)
	}
}

func TestPublicKeysKnowWhoHasAnEndpoint(t *testing.T) {
	saved := "private_key=" + hexKey(8) + "\n" + peerSettings(1, "10.0.1.0/24") + "public_key=" + hexKey(2) + "\nreplace_allowed_ips=true\n"
	got := publicKeys(saved)
	key := func(n byte) device.NoisePublicKey {
		raw, err := hex.DecodeString(hexKey(n))
		if err != nil {
			t.Fatal(err)
		}
		return device.NoisePublicKey(raw)
	}
	if len(got) != 2 || !got[key(1)] || got[key(2)] {
		t.Errorf("got %v", got)
	}
}

func TestListenPort(t *testing.T) {
	for saved, want := range map[string]string{
		"":                                "",
		"private_key=00\nlisten_port=5\n": "5",
		"public_key=00\nlisten_port=5\n":  "", // not the device's
	} {
		if got := listenPort(saved); got != want {
			t.Errorf("of %q: %q", saved, got)
		}
	}
	for saved, want := range map[string]string{"listen_port=5\nfwmark=1\n": "fwmark=1\n", "fwmark=1\n": "fwmark=1\n"} {
		if got := withoutListenPort(saved); got != want {
			t.Errorf("%q without its port: %q", saved, got)
		}
	}
	for _, row := range [][3]string{
		{"listen_port=1\nfwmark=1\n", "5", "listen_port=5\nfwmark=1\n"},
		{"listen_port=1\n", "", "listen_port=1\n"},
		{"fwmark=1\n", "5", "listen_port=5\nfwmark=1\n"},
		{"listen_port=5\n", "5", "listen_port=5\n"},
	} {
		if got := withListenPort(row[0], row[1]); got != row[2] {
			t.Errorf("%q with %q: %q", row[0], row[1], got)
		}
	}
}

func TestTheLogRepeatsATextOnceInAWhile(t *testing.T) {
	now := time.Unix(1000, 0)
	r := &recent{now: func() time.Time { return now }, texts: map[string]time.Time{}}
	if !r.first("a") || r.first("a") || !r.first("b") {
		t.Error("a text was repeated, or another held back")
	}
	now = now.Add(sayAgainAfter)
	if !r.first("a") {
		t.Error("a text was held back for too long")
	}
	for i := range 3 * maxRecent {
		r.first(fmt.Sprint(i))
	}
	if len(r.texts) > maxRecent {
		t.Errorf("it remembers %d texts", len(r.texts))
	}
}

func TestThreads(t *testing.T) {
	for cores, want := range map[int]int{1: 1, 2: 1, 4: 2, 16: 8} {
		if got := threads(cores); got != want {
			t.Errorf("on %d cores: %d", cores, got)
		}
	}
}
