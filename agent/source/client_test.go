package source

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func certificate(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// TestConnectionFaultsSayWhatToDo : these errors are all that the log of an agent has when it cannot start.
func TestConnectionFaultsSayWhatToDo(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	broken := filepath.Join(t.TempDir(), "broken")
	if err := errors.Join(os.WriteFile(garbage, []byte("a: b\n"), 0o600), os.WriteFile(broken, []byte("\t{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		c    Connection
		says []string
	}{
		"nothing":           {Connection{}, []string{"--api-server or --kubeconfig"}},
		"no such file":      {Connection{Kubeconfig: "/no/such"}, []string{"/no/such", "no such file"}},
		"not a kubeconfig":  {Connection{Kubeconfig: garbage}, []string{garbage, "names no cluster"}},
		"not YAML":          {Connection{Kubeconfig: broken}, []string{broken}},
		"garbage for a URL": {Connection{Server: "ht!tp://x y"}, []string{"the API server", "ht!tp://x y"}},
		"not in a Pod":      {Connection{Server: "192.0.2.1:6443"}, []string{"ServiceAccount", "--kubeconfig"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := test.c.REST()
			if err == nil {
				_, _, err = Rotating(cfg)
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "KUBERNETES_MASTER") {
				t.Errorf("%q sends the reader the wrong way", err)
			}
		})
	}
}

// TestRotatingEndsWhatHangsOnALostConnection : clients of several groups share one connection; when it is closed,
// what waits for an answer learns of it, and the next request makes a new one.
func TestRotatingEndsWhatHangsOnALostConnection(t *testing.T) {
	watched := make(chan struct{})
	var watches atomic.Int32
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("User-Agent") != "tester" {
			http.Error(w, "who is it?", http.StatusUnauthorized)
			return
		}
		if r.URL.Query().Get("watch") != "" {
			if watches.Add(1) > 1 { // a client that asks again by itself on a new connection has learned of it, too
				http.Error(w, "asked again", http.StatusInternalServerError)
				return
			}
			close(watched)
			<-r.Context().Done()
			return
		}
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Success"}`))
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()

	cfg, reconnect, err := Rotating(&rest.Config{
		Host: server.URL, BearerToken: "secret", UserAgent: "tester", TLSClientConfig: rest.TLSClientConfig{CAData: certificate(server)},
	})
	if err != nil {
		t.Fatal(err)
	}
	weftnet, err1 := NewClient(cfg, v1alpha1.GroupVersion)
	core, err2 := NewClient(cfg, corev1.SchemeGroupVersion)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	ask := func(client rest.Interface) {
		t.Helper()
		if err := client.Get().Resource("things").Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	ask(weftnet)
	ask(core)
	if n := connections.Load(); n != 1 {
		t.Errorf("two clients made %d connections", n)
	}
	ended := make(chan error)
	go func() {
		_, err := core.Get().Resource("things").Param("watch", "1").DoRaw(context.Background())
		ended <- err
	}()
	<-watched
	reconnect()
	if err := <-ended; err == nil {
		t.Error("what waited on the closed connection was told that all is well")
	}
	ask(weftnet)
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections after one was closed", n)
	}
}
