// Package pki makes the cluster's certificates and kubeconfigs. What exists
// is kept, so that calling it again changes nothing.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const lifetime = 365 * 24 * time.Hour

// Authority signs certificates; it lives in a folder.
type Authority struct {
	dir  string
	now  time.Time
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Subject is what a certificate says about its holder.
type Subject struct {
	// Name is the common name, and with it the user's name.
	Name string
	// Groups are the organizations, and with them the user's groups.
	Groups []string
	DNS    []string
	IPs    []netip.Addr
}

// Open makes the authority in the folder, or loads it.
func Open(dir string, now time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the certificate folder: %w", err)
	}
	a := &Authority{dir: dir, now: now}
	err := a.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = a.create()
	}
	if err != nil {
		return nil, fmt.Errorf("open the certificate authority: %w", err)
	}
	return a, nil
}

// CertFile is the authority's own certificate.
func (a *Authority) CertFile() string { return a.Cert("ca") }

// Cert is the file of a certificate, by the name given to Issue.
func (a *Authority) Cert(name string) string { return filepath.Join(a.dir, name+".crt") }

// Key is the file of a private key, by the name given to Issue.
func (a *Authority) Key(name string) string { return filepath.Join(a.dir, name+".key") }

func (a *Authority) load() error {
	certDER, err := readPEM(a.Cert("ca"))
	if err != nil {
		return err
	}
	keyDER, err := readPEM(a.Key("ca"))
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(certDER); err != nil {
		return fmt.Errorf("parse %s: %w", a.Cert("ca"), err)
	}
	if a.key, err = x509.ParseECPrivateKey(keyDER); err != nil {
		return fmt.Errorf("parse %s: %w", a.Key("ca"), err)
	}
	return nil
}

func (a *Authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	template, err := a.template(Subject{Name: "testbed-ca"})
	if err != nil {
		return err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("sign the authority's certificate: %w", err)
	}
	if err := a.write("ca", der, key); err != nil {
		return err
	}
	return a.load()
}

func (a *Authority) template(s Subject) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	ips := make([]net.IP, len(s.IPs))
	for i, ip := range s.IPs {
		ips[i] = ip.AsSlice()
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: s.Name, Organization: s.Groups},
		DNSNames:     s.DNS,
		IPAddresses:  ips,
		// An hour back, for a machine whose clock is set meanwhile.
		NotBefore:   a.now.Add(-time.Hour),
		NotAfter:    a.now.Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, nil
}

// Issue makes a certificate for client and server use, unless it exists.
func (a *Authority) Issue(name string, s Subject) error {
	if exists(a.Cert(name)) && exists(a.Key(name)) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of %s: %w", name, err)
	}
	template, err := a.template(s)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return fmt.Errorf("sign the certificate of %s: %w", name, err)
	}
	return a.write(name, der, key)
}

func (a *Authority) write(name string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the key of %s: %w", name, err)
	}
	// The certificate last: with it there, the pair is whole.
	if err := writePEM(a.Key(name), "EC PRIVATE KEY", keyDER); err != nil {
		return err
	}
	return writePEM(a.Cert(name), "CERTIFICATE", der)
}

// ServiceAccountKey makes the pair that signs ServiceAccount tokens, unless it
// exists: RSA, which every consumer of such tokens understands.
func (a *Authority) ServiceAccountKey(name string) error {
	if exists(a.Cert(name)) && exists(a.Key(name)) {
		return nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make the service account key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("encode the service account key: %w", err)
	}
	if err := writePEM(a.Key(name), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)); err != nil {
		return err
	}
	return writePEM(a.Cert(name), "PUBLIC KEY", public)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func readPEM(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read key material: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("parse %s: not PEM", file)
	}
	return block.Bytes, nil
}

func writePEM(file, kind string, der []byte) error {
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return WriteFile(file, text, 0o600)
}

// WriteFile replaces a file as one step.
func WriteFile(file string, text []byte, mode fs.FileMode) error {
	temp := file + ".new"
	if err := os.WriteFile(temp, text, mode); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.Rename(temp, file); err != nil {
		return fmt.Errorf("replace %s: %w", file, err)
	}
	return nil
}
