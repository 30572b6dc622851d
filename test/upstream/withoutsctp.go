package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// probeFunc is the suite's one way to ask whether a Pod reaches another.
const (
	probeFile = "conformance/utils/kubernetes/helper.go"
	probeFunc = "func PokeServer(t *testing.T, client k8sclient.Interface, kubeConfig *rest.Config, " +
		"clientNamespace, clientPod, protocol, targetHost string, targetPort int32, timeoutConfig config.TimeoutConfig, shouldConnect bool) {\n"
	leaveOut = "\tif protocol == \"sctp\" {\n" +
		"\t\tt.Logf(\"LEFT OUT, no SCTP in this kernel: %s/%s to %s:%d\", clientNamespace, clientPod, targetHost, targetPort)\n" +
		"\t\treturn\n\t}\n"
)

// withoutSCTP makes a copy of the suite whose probes over SCTP are left out and say so, and a module file that
// uses it: several of its tests ask over TCP, UDP and SCTP in turn, and on a kernel without SCTP none of them
// could pass for what it asks over the other two.
func withoutSCTP(root, tools, module string) (string, error) {
	into := filepath.Join(root, ".testbed", "cache", filepath.Base(module)+"-without-sctp")
	if err := os.RemoveAll(into); err != nil {
		return "", fmt.Errorf("remove the old copy of the suite: %w", err)
	}
	for _, folder := range []string{"apis", "conformance"} {
		if err := os.CopyFS(filepath.Join(into, folder), os.DirFS(filepath.Join(module, folder))); err != nil {
			return "", fmt.Errorf("copy the suite: %w", err)
		}
	}
	if err := editProbe(into); err != nil {
		return "", err
	}
	for from, to := range map[string]string{
		filepath.Join(module, "go.mod"): filepath.Join(into, "go.mod"),
		filepath.Join(tools, "go.sum"):  filepath.Join(into, "tools.sum"),
	} {
		if err := copyFile(from, to); err != nil {
			return "", err
		}
	}
	text, err := os.ReadFile(filepath.Join(tools, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("read the module file: %w", err)
	}
	modfile := filepath.Join(into, "tools.mod")
	text = fmt.Appendf(text, "\nreplace %s => %s\n", clusterPolicyModule, into)
	if err := os.WriteFile(modfile, text, 0o644); err != nil {
		return "", fmt.Errorf("write the module file: %w", err)
	}
	return modfile, nil
}

func editProbe(copied string) error {
	path := filepath.Join(copied, filepath.FromSlash(probeFile))
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the suite's probe: %w", err)
	}
	edited, err := leavingOutSCTP(text)
	if err != nil {
		return err
	}
	// The copy has the module cache's permissions: read only.
	if err := errors.Join(os.Remove(path), os.WriteFile(path, edited, 0o644)); err != nil {
		return fmt.Errorf("write the suite's probe: %w", err)
	}
	return nil
}

// leavingOutSCTP puts the exception into the probe.
func leavingOutSCTP(text []byte) ([]byte, error) {
	if bytes.Count(text, []byte(probeFunc)) != 1 {
		return nil, fmt.Errorf("leave out SCTP: %s has not the function that is known: look at what this release of the suite does", probeFile)
	}
	return bytes.Replace(text, []byte(probeFunc), []byte(probeFunc+leaveOut), 1), nil
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	return nil
}
