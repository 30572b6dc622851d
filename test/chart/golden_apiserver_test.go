//go:build apiserver

package chart

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares lines with a file in testdata, or writes it.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (go test -update writes it):\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// privileges tells, for each Pod template, what it may do on its node.
func privileges(t *testing.T, objects []*unstructured.Unstructured) []string {
	t.Helper()
	var lines []string
	for _, o := range objects {
		raw, found, err := unstructured.NestedMap(o.Object, "spec", "template", "spec")
		if err != nil || !found {
			continue
		}
		var pod corev1.PodSpec
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &pod); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s %s: hostNetwork=%t hostPID=%t token=%t", o.GetKind(), o.GetName(),
			pod.HostNetwork, pod.HostPID, pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken))
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			lines = append(lines, "  "+containerLine(&pod, &c))
		}
		for _, v := range pod.Volumes {
			if v.HostPath != nil {
				lines = append(lines, "  hostPath "+v.HostPath.Path)
			}
		}
	}
	return lines
}

func containerLine(pod *corev1.PodSpec, c *corev1.Container) string {
	s := c.SecurityContext
	user := s.RunAsUser
	if user == nil {
		user = pod.SecurityContext.RunAsUser
	}
	return fmt.Sprintf("container %s: user=%d privileged=%t escalation=%t readOnlyRoot=%t drop=%v add=%v seccomp=%s", c.Name,
		*user, s.Privileged != nil && *s.Privileged, *s.AllowPrivilegeEscalation, *s.ReadOnlyRootFilesystem,
		s.Capabilities.Drop, s.Capabilities.Add, pod.SecurityContext.SeccompProfile.Type)
}
