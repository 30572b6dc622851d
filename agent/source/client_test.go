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
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
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
	noCA := filepath.Join(t.TempDir(), "no-ca")
	const cluster = `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":"https://192.0.2.1:6443","certificate-authority-data":"bm8="}}],"users":[{"name":"u","user":{}}]}`
	err := errors.Join(os.WriteFile(garbage, []byte("a: b\n"), 0o600), os.WriteFile(broken, []byte("\t{"), 0o600), os.WriteFile(noCA, []byte(cluster), 0o600))
	if err != nil {
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
		"no certificate":    {Connection{Kubeconfig: noCA}, []string{"connect to the API server", "certificate"}},
		"not in a Pod":      {Connection{Server: "192.0.2.1:6443"}, []string{"ServiceAccount", "--kubeconfig"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := test.c.REST()
			if err == nil {
				_, err = Connect(cfg)
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Count(err.Error(), "connect to the API server") > 1 {
				t.Errorf("%q says it twice", err)
			}
			if strings.Contains(err.Error(), "KUBERNETES_MASTER") {
				t.Errorf("%q sends the reader the wrong way", err)
			}
		})
	}
}

// api stands for the API server: a watch hangs, everything else is answered at once.
type api struct {
	*httptest.Server
	connections, http1 atomic.Int32
	watched            chan struct{}
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{watched: make(chan struct{}, 8)}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("User-Agent") != "tester" {
			http.Error(w, "who is it?", http.StatusUnauthorized)
			return
		}
		if r.ProtoMajor == 1 {
			a.http1.Add(1)
		}
		if r.URL.Query().Get("watch") != "" {
			a.watched <- struct{}{}
			<-r.Context().Done()
			return
		}
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Success"}`))
	}))
	a.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			a.connections.Add(1)
		}
	}
	a.EnableHTTP2 = true
	a.StartTLS()
	t.Cleanup(a.Close)
	return a
}

func (a *api) connect(t *testing.T) *Connections {
	t.Helper()
	c, err := Connect(&rest.Config{
		Host: a.URL, BearerToken: "secret", UserAgent: "tester", TLSClientConfig: rest.TLSClientConfig{CAData: certificate(a.Server)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func clientsOf(t *testing.T, cfg *rest.Config) (weftnet, core rest.Interface) {
	t.Helper()
	weftnet, err1 := NewClient(cfg, v1alpha1.GroupVersion)
	core, err2 := NewClient(cfg, corev1.SchemeGroupVersion)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return weftnet, core
}

func ask(t *testing.T, client rest.Interface) {
	t.Helper()
	if err := client.Get().Resource("things").Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}

// hang begins a watch, and gives what it ends with. It is not tried again on a new connection.
func (a *api) hang(client rest.Interface) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := client.Get().Resource("things").Param("watch", "1").MaxRetries(0).DoRaw(context.Background())
		ended <- err
	}()
	<-a.watched
	return ended
}

// TestShared : clients of several groups share one connection; when it is closed, what waits for an answer learns of
// it, and the next request makes a new one.
func TestShared(t *testing.T) {
	a := newAPI(t)
	c := a.connect(t)
	weftnet, core := clientsOf(t, c.Shared)
	ask(t, weftnet)
	ask(t, core)
	ended := a.hang(core)
	if n := a.connections.Load(); n != 1 || a.http1.Load() != 0 {
		t.Errorf("two clients made %d connections, and %d requests of HTTP/1", n, a.http1.Load())
	}
	c.Renew()
	if err := <-ended; err == nil {
		t.Error("what waited on the closed connection was told that all is well")
	}
	ask(t, weftnet)
	if n := a.connections.Load(); n != 2 {
		t.Errorf("%d connections after one was closed", n)
	}
}

// TestApart : each watch has a connection of its own, of HTTP/1.1, and all of them are closed together.
func TestApart(t *testing.T) {
	a := newAPI(t)
	c := a.connect(t)
	weftnet, core := clientsOf(t, c.Apart)
	first, second := a.hang(weftnet), a.hang(core)
	if n := a.connections.Load(); n != 2 || a.http1.Load() != 2 {
		t.Errorf("two watches have %d connections, and made %d requests of HTTP/1", n, a.http1.Load())
	}
	c.Renew()
	for _, ended := range []<-chan error{first, second} {
		if err := <-ended; err == nil {
			t.Error("what waited on a closed connection was told that all is well")
		}
	}
	ask(t, core)
	if n := a.connections.Load(); n != 3 {
		t.Errorf("%d connections after two were closed", n)
	}
}

// TestSilentConnection : one on which nothing comes ends, although the kernel of who it is with is well; one on which something does,
// does not.
func TestSilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		h := &heard{Conn: near, silentFor: silentFor}
		began := time.Now()
		for range 4 {
			go func() {
				<-time.After(time.Minute) // as bookmarks come
				_, _ = far.Write([]byte("bookmark"))
			}()
			if _, err := h.Read(make([]byte, 8)); err != nil {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
		}
		began = time.Now()
		var timeout net.Error
		if _, err := h.Read(make([]byte, 8)); !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) > silentFor {
			t.Errorf("a silent connection ends with %v after %v", err, time.Since(began))
		}
	})
}

// TestDeadConnection : the kernel is told to end a connection whose other side is silent.
func TestDeadConnection(t *testing.T) {
	a := newAPI(t)
	conn, err := dialer().DialContext(t.Context(), "tcp", a.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]int{unix.TCP_USER_TIMEOUT: 45_000, unix.TCP_KEEPIDLE: 30, unix.TCP_KEEPINTVL: 5, unix.TCP_KEEPCNT: 3}
	err = raw.Control(func(fd uintptr) {
		for option, value := range want {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil || got != value {
				t.Errorf("option %d is %d, want %d: %v", option, got, value, err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
