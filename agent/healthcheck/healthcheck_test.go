package healthcheck

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kubeproxy"
	"github.com/weftnet/weftnet/agent/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxy is the state that the servers ask for.
type proxy struct{ healthy, eligible bool }

func (p *proxy) config() Config {
	return Config{
		Healthy: func(time.Time) bool { return p.healthy }, Eligible: func() bool { return p.eligible },
		Updated: func() time.Time { return time.Unix(1700000000, 0) }, Log: slog.New(slog.DiscardHandler),
	}
}

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}

// freePort is one that nobody listens on.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func ask(t *testing.T, port uint16) (int, http.Header, string) {
	t.Helper()
	return askAt(t, loopback[0], port)
}

func askAt(t *testing.T, addr netip.Addr, port uint16) (int, http.Header, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := client.Get("http://" + netip.AddrPortFrom(addr, port).String())
	if err != nil {
		return 0, nil, err.Error()
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, string(b)
}

func TestServiceAnswersAsKubeProxyDoes(t *testing.T) {
	p := &proxy{healthy: true, eligible: true}
	s := NewServices(p.config())
	name, port := snapshot.ServiceName{Namespace: "web", Name: "shop"}, freePort(t)
	put := func(h *service.HealthCheck) {
		t.Helper()
		if err := s.Put(t.Context(), []service.Wanted{{Service: name, HealthCheck: h}}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(code, local int, healthy bool) {
		t.Helper()
		got, head, body := ask(t, port)
		want := fmt.Sprintf("{\n\t\"service\": {\n\t\t\"namespace\": \"web\",\n\t\t\"name\": \"shop\"\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}", local, healthy)
		if got != code || body != want || head.Get("X-Load-Balancing-Endpoint-Weight") != fmt.Sprint(local) ||
			head.Get("Content-Type") != "application/json" || head.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("answer %d %v\n%s\nwant %d\n%s", got, head, body, code, want)
		}
	}
	put(&service.HealthCheck{Addrs: loopback, Port: port, LocalReady: 2})
	expect(http.StatusOK, 2, true)
	put(&service.HealthCheck{Addrs: loopback, Port: port})
	expect(http.StatusServiceUnavailable, 0, true)
	put(&service.HealthCheck{Addrs: loopback, Port: port, LocalReady: 1})
	p.healthy = false
	expect(http.StatusServiceUnavailable, 1, false)
	p.healthy = true
	old := port
	port = freePort(t)
	put(&service.HealthCheck{Addrs: loopback, Port: port, LocalReady: 1})
	expect(http.StatusOK, 1, true)
	if code, _, body := ask(t, old); code != 0 {
		t.Errorf("the port of before still answers %d %s", code, body)
	}
	put(nil)
	if code, _, body := ask(t, port); code != 0 {
		t.Errorf("a Service without a health check answers %d %s", code, body)
	}
}

// TestOnlyTheAddressesOfNodePortsAnswer, also those that the node does not have at the moment, and they may change.
func TestOnlyTheAddressesOfNodePortsAnswer(t *testing.T) {
	p := &proxy{healthy: true, eligible: true}
	s := NewServices(p.config())
	port := freePort(t)
	first, second, third := loopback[0], loopback[1], netip.MustParseAddr("::1")
	absent := []netip.Addr{netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77"), netip.MustParseAddr("fe80::77")}
	put := func(addrs ...netip.Addr) {
		t.Helper()
		w := service.Wanted{Service: snapshot.ServiceName{Namespace: "web", Name: "shop"}, HealthCheck: &service.HealthCheck{Addrs: addrs, Port: port, LocalReady: 1}}
		if err := s.Put(t.Context(), []service.Wanted{w}); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []netip.Addr{first, second, third} {
			want := 0
			if slices.Contains(addrs, addr) {
				want = http.StatusOK
			}
			if code, _, body := askAt(t, addr, port); code != want {
				t.Errorf("listening on %v: %s answers %d %s, want %d", addrs, addr, code, body, want)
			}
		}
		if problems := s.Problems(); len(problems) != 0 {
			t.Errorf("listening on %v: %v", addrs, problems)
		}
	}
	put(first, third)
	put(append(absent, second)...)
	put()
	put(first, second)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Run(ctx)
}

func TestTakenPortIsReportedAndTriedAgain(t *testing.T) {
	p := &proxy{healthy: true, eligible: true}
	s := NewServices(p.config())
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	name := snapshot.ServiceName{Namespace: "web", Name: "shop"}
	wanted := []service.Wanted{{Service: name, HealthCheck: &service.HealthCheck{Addrs: loopback, Port: port, LocalReady: 1}}}
	if err := s.Put(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if got := s.Problems(); len(got) != 1 || got[0].Service != name || got[0].Reason != ReasonListen {
		t.Errorf("problems are %v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if code, _, body := ask(t, port); code != http.StatusOK || len(s.Problems()) != 0 {
		t.Errorf("answer %d %s, problems %v", code, body, s.Problems())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Run(ctx)
	if code, _, _ := ask(t, port); code != 0 {
		t.Error("it answers after the end")
	}
}

func TestNode(t *testing.T) {
	for _, row := range []struct {
		path              string
		healthy, eligible bool
		code              int
	}{
		{"/healthz", true, true, 200}, {"/healthz", true, false, 503}, {"/healthz", false, true, 503},
		{"/livez", true, false, 200}, {"/livez", false, true, 503},
	} {
		p := &proxy{row.healthy, row.eligible}
		answered := ""
		n := Node{Config: p.config(), Answered: func(kind string, code int) { answered = fmt.Sprint(kind, " ", code) }}
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, row.path, nil))
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		eligible, told := got["nodeEligible"]
		if w.Code != row.code || answered != fmt.Sprint(row.path[1:], " ", row.code) || got["healthy"] != row.healthy ||
			told != (row.path == "/healthz") || (told && eligible != row.eligible) || got["lastUpdated"] == nil || got["currentTime"] == nil {
			t.Errorf("%+v: %d %s, counted %q", row, w.Code, w.Body, answered)
		}
		if w.Header().Get(kubeproxy.Header) == "" {
			t.Error("the answer could be taken for kube-proxy's")
		}
	}
}
