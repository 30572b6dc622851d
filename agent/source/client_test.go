package source

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func certificate(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// TestRotatingEndsWhatHangsOnALostConnection : clients of several groups share one connection; when it is closed,
// what waits for an answer learns of it, and the next request makes a new one.
func TestRotatingEndsWhatHangsOnALostConnection(t *testing.T) {
	watched := make(chan struct{})
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("User-Agent") != "tester" {
			http.Error(w, "who is it?", http.StatusUnauthorized)
			return
		}
		if r.URL.Query().Get("watch") != "" {
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
