package pki

import (
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestIssuedCertificateVerifies(t *testing.T) {
	a := open(t, t.TempDir())
	subject := Subject{
		Name: "kube-apiserver", Groups: []string{"g"}, DNS: []string{"kubernetes"},
		IPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")},
	}
	if err := a.Issue("api", subject); err != nil {
		t.Fatal(err)
	}
	der, err := readPEM(a.Cert("api"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for _, host := range []string{"kubernetes", "10.96.0.1", "fd00:10:96::1"} {
		_, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now})
		if err != nil {
			t.Errorf("verify for %s: %v", host, err)
		}
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.96.0.2", CurrentTime: now}); err == nil {
		t.Error("verified for an address that is not in it")
	}
}

func TestSecondCallKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	issue := func() map[string]string {
		a := open(t, dir)
		if err := a.Issue("x", Subject{Name: "x"}); err != nil {
			t.Fatal(err)
		}
		if err := a.ServiceAccountKey("sa"); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files[e.Name()] = string(text)
		}
		return files
	}
	first, second := issue(), issue()
	if len(first) != 6 {
		t.Fatalf("got %d files, want three pairs", len(first))
	}
	for name, text := range first {
		if second[name] != text {
			t.Errorf("%s changed", name)
		}
	}
}

func TestKubeconfigLoads(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	if err := a.Issue("admin", Subject{Name: "admin", Groups: []string{"system:masters"}}); err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{"10.200.0.11:6443", "[fd00:c8::11]:6443"} {
		file := filepath.Join(dir, "kubeconfig")
		if err := a.Kubeconfig(file, "admin", netip.MustParseAddrPort(server)); err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.BuildConfigFromFlags("", file)
		if err != nil {
			t.Fatal(err)
		}
		if config.Host != "https://"+server || len(config.CertData) == 0 {
			t.Errorf("got host %q with %d bytes of certificate", config.Host, len(config.CertData))
		}
	}
}
