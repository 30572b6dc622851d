package pki

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"text/template"
)

// Credentials are embedded, so that the file can be copied anywhere.
var kubeconfig = template.Must(template.New("kubeconfig").Parse(`apiVersion: v1
kind: Config
clusters:
- name: testbed
  cluster:
    server: https://{{.Server}}
    certificate-authority-data: {{.CA}}
users:
- name: {{.User}}
  user:
    client-certificate-data: {{.Cert}}
    client-key-data: {{.Key}}
contexts:
- name: testbed
  context: {cluster: testbed, user: {{.User}}}
current-context: testbed
`))

// Kubeconfig writes the client configuration of the holder of an issued
// certificate.
func (a *Authority) Kubeconfig(file, name string, server netip.AddrPort) error {
	values := map[string]string{"Server": server.String(), "User": name}
	for field, source := range map[string]string{"CA": a.CertFile(), "Cert": a.Cert(name), "Key": a.Key(name)} {
		text, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("read key material: %w", err)
		}
		values[field] = base64.StdEncoding.EncodeToString(text)
	}
	var out bytes.Buffer
	if err := kubeconfig.Execute(&out, values); err != nil {
		return fmt.Errorf("write the kubeconfig of %s: %w", name, err)
	}
	return WriteFile(file, out.Bytes(), 0o600)
}
