//go:build e2e

package policy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/harness"
)

// annotate sets an annotation of the stage's policy; without a value it is taken away.
func (s stage) annotate(t *testing.T, key, value string) {
	t.Helper()
	policies := cluster.Client.NetworkingV1().NetworkPolicies(s.namespace)
	p, err := policies.Get(t.Context(), "ports", metav1.GetOptions{})
	if err == nil {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations["policy.weftnet.io/"+key] = value
		if value == "" {
			delete(p.Annotations, "policy.weftnet.io/"+key)
		}
		_, err = policies.Update(t.Context(), p, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// line is what the agent says of a packet.
type line struct {
	Msg, Direction, Pod, Dst, Tier string
	Policies                       []string
}

// said finds a line in the log of the agent on the server's node that tells of a packet to the port.
func (s stage) said(t *testing.T, msg string, port int) error {
	t.Helper()
	agents, err := cluster.Client.CoreV1().Pods(harness.Namespace).List(t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=agent", FieldSelector: "spec.nodeName=" + s.server.pod.Spec.NodeName,
	})
	if err != nil || len(agents.Items) != 1 {
		return fmt.Errorf("find the agent: %d found: %w", len(agents.Items), err)
	}
	tail := int64(2000)
	log, err := cluster.Client.CoreV1().Pods(harness.Namespace).GetLogs(agents.Items[0].Name, &corev1.PodLogOptions{TailLines: &tail}).DoRaw(t.Context())
	if err != nil {
		return fmt.Errorf("read the agent's log: %w", err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(log)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == msg && l.Pod == s.namespace+"/server" && strings.HasSuffix(l.Dst, fmt.Sprintf(":%d", port)) {
			if l.Direction != "ingress" || l.Tier != "NetworkPolicy" || !slices.Contains(l.Policies, s.namespace+"/ports") {
				t.Errorf("the agent says %s", lines.Text())
			}
			return nil
		}
	}
	return fmt.Errorf("the agent has not said %q of a packet to port %d of %s/server", msg, port, s.namespace)
}

// counts asks the command, on the server's node, what it counts for the server and for its policy.
func (s stage) counts(t *testing.T) (denied uint64, enforced, audited uint64, err error) {
	t.Helper()
	binary, err := buildWeft()
	if err != nil {
		t.Fatal(err)
	}
	out, err := onNode(t, 1, binary+" policy explain --node -o json --pod "+s.namespace+"/server")
	if err != nil {
		return 0, 0, 0, err
	}
	var view struct {
		Pods []struct {
			Pod     string
			Ingress struct {
				Policies      []string
				DeniedPackets uint64
			}
		}
		Sites []struct {
			Because string
			Audit   bool
			Packets uint64
		}
	}
	if err := json.Unmarshal([]byte(out), &view); err != nil {
		return 0, 0, 0, fmt.Errorf("read the answer: %w\n%s", err, out)
	}
	for _, p := range view.Pods {
		if p.Pod == s.namespace+"/server" {
			denied = p.Ingress.DeniedPackets
		}
	}
	for _, site := range view.Sites {
		switch {
		case site.Because != "NetworkPolicy "+s.namespace+"/ports":
		case site.Audit:
			audited += site.Packets
		default:
			enforced += site.Packets
		}
	}
	return denied, enforced, audited, nil
}

// TestDenialsAreTold : what a policy denies is logged with its name where it asks for that, and counted; in
// audit mode it denies nothing and tells what it would.
func TestDenialsAreTold(t *testing.T) {
	s := newStage(t)
	s.annotate(t, "log", "true")
	const shut = lastPort + 1
	eventually(t, "a denied packet is logged with the policy", func() error {
		if err := s.closed(t, shut); err != nil {
			return err
		}
		return s.said(t, "denied", shut)
	})
	eventually(t, "denied packets are counted", func() error {
		denied, enforced, _, err := s.counts(t)
		if err == nil && (denied == 0 || enforced == 0) {
			err = fmt.Errorf("%d packets to the Pod, %d by the policy", denied, enforced)
		}
		return err
	})

	s.annotate(t, "audit", "true")
	server := at(harness.Addresses(s.server.pod), shut)
	for _, client := range s.clients {
		eventually(t, "in audit mode the port is open", func() error { return connects(t, client.Namespace, server...) })
	}
	eventually(t, "what would be denied is logged", func() error { return s.said(t, "would be denied", shut) })
	eventually(t, "what would be denied is counted", func() error {
		_, _, audited, err := s.counts(t)
		if err == nil && audited == 0 {
			err = fmt.Errorf("none is counted for the policy")
		}
		return err
	})

	s.annotate(t, "audit", "")
	eventually(t, "out of audit mode the port is closed", func() error { return s.closed(t, shut) })
}
