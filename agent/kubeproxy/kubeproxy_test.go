//go:build linux

package kubeproxy

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

func serve(t *testing.T, code int, header, body string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if header != "" {
			w.Header().Set(header, "1")
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestWhoAnswers(t *testing.T) {
	const health = `{"lastUpdated": "2026-11-22 20:00:00 +0000 UTC","currentTime": "2026-11-22 20:00:10 +0000 UTC", "nodeEligible": true}`
	for _, row := range []struct {
		name, header, body string
		code               int
		mode, health       bool
	}{
		{"kube-proxy's mode", "", "nftables", 200, true, false},
		{"a mode with a line's end", "", "iptables\n", 200, true, false},
		{"another server", "", "<html>not found</html>", 404, false, false},
		{"kube-proxy's health", "", health, 200, false, true},
		{"kube-proxy that is not well", "", health, 503, false, true},
		{"Weftnet's own health", Header, health, 200, false, false},
		{"JSON of another", "", `{"status": "ok"}`, 200, false, false},
	} {
		url := serve(t, row.code, row.header, row.body)
		if _, got := askMode(t.Context(), url); got != row.mode {
			t.Errorf("%s: taken for a mode: %t", row.name, got)
		}
		if got := askHealth(t.Context(), url); got != row.health {
			t.Errorf("%s: taken for kube-proxy's health: %t", row.name, got)
		}
	}
}

type kernelOf struct {
	modes []string
	err   error
}

func (k *kernelOf) Modes() ([]string, error) { return k.modes, k.err }

// TestWatcherFollows : what is found comes and goes, a kernel that cannot be asked changes nothing,
// at the start too.
func TestWatcherFollows(t *testing.T) {
	k := &kernelOf{}
	w := &Watcher{Kernel: k, Log: slog.New(slog.DiscardHandler)}
	steps := []struct {
		name   string
		change func()
		rules  bool
		known  bool
	}{
		{"the kernel does not answer yet", func() { k.err = errors.New("no") }, false, false},
		{"nothing there", func() { k.err = nil }, false, true},
		{"rules appear", func() { k.modes = []string{"nftables"} }, true, true},
		{"the kernel does not answer", func() { k.modes, k.err = nil, errors.New("no") }, true, true},
		{"rules are gone", func() { k.err = nil }, false, true},
	}
	for _, s := range steps {
		s.change()
		w.look(t.Context())
		if f, known := w.Finding(); f.Rules != s.rules || known != s.known {
			t.Errorf("%s: %+v, known: %t", s.name, f, known)
		}
	}
}
