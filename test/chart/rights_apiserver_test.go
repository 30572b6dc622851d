//go:build apiserver

package chart

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
)

// tokenClient acts with a token of a ServiceAccount of the chart; bound to a Pod if one is given.
func (c *cluster) tokenClient(account, pod string) client.Client {
	c.t.Helper()
	return apiserver.Client(c.t, c.tokenConfig(account, pod))
}

func (c *cluster) tokenConfig(account, pod string) *rest.Config {
	c.t.Helper()
	request := &authenticationv1.TokenRequest{}
	if pod != "" {
		var p corev1.Pod
		if err := c.admin.Get(c.t.Context(), client.ObjectKey{Namespace: namespace, Name: pod}, &p); err != nil {
			c.t.Fatal(err)
		}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: p.UID}
	}
	kube := kubernetes.NewForConfigOrDie(c.server.Config)
	made, err := kube.CoreV1().ServiceAccounts(namespace).CreateToken(c.t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatalf("make a token of %s: %v", account, err)
	}
	config := rest.AnonymousClientConfig(c.server.Config)
	config.BearerToken = made.Status.Token
	return config
}

// node makes a Node, its MeshNode and an agent Pod on it, as kubelet and DaemonSet would.
func (c *cluster) node(name string) {
	c.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "agent-" + name, Namespace: namespace},
		Spec: corev1.PodSpec{
			NodeName: name, ServiceAccountName: "weftnet-agent",
			Containers: []corev1.Container{{Name: "agent", Image: "weftnet.io/agent:dev"}},
		},
	}
	meshNode := &v1alpha1.MeshNode{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, o := range []client.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, meshNode, pod} {
		if err := c.admin.Create(c.t.Context(), o); err != nil {
			c.t.Fatal(err)
		}
	}
}

func statusPatch(port int) client.Patch {
	return client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"status":{"listenPort":%d}}`, port))
}

func meshNode(name string) *v1alpha1.MeshNode {
	return &v1alpha1.MeshNode{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// agentKeepsToItself proves, with tokens as the kubelet would mount them, that the agent of a node
// can write the status of that node's MeshNode, and that nothing else of weftnet.io, and no
// Secret and no Pod's or Node's change, is within its reach.
func agentKeepsToItself(c *cluster) {
	t, ctx := c.t, c.t.Context()
	c.node("node-a")
	c.node("node-b")
	agentA, agentB := c.tokenClient("weftnet-agent", "agent-node-a"), c.tokenClient("weftnet-agent", "agent-node-b")
	unbound := c.tokenClient("weftnet-agent", "")

	// The policy takes effect a moment after it was made: wait until it refuses.
	c.eventually("the admission policy to be in force", func(ctx context.Context) (bool, error) {
		return apierrors.IsForbidden(agentA.SubResource("status").Patch(ctx, meshNode("node-b"), statusPatch(1))), nil
	})

	for agent, node := range map[client.Client]string{agentA: "node-a", agentB: "node-b"} {
		if err := agent.SubResource("status").Patch(ctx, meshNode(node), statusPatch(51820)); err != nil {
			t.Errorf("the agent of %s cannot write its own status: %v", node, err)
		}
		applied := map[string]any{"apiVersion": v1alpha1.GroupVersion.String(), "kind": "MeshNode",
			"metadata": map[string]any{"name": node}, "status": map[string]any{"mtu": 1420}}
		text, err := json.Marshal(applied)
		if err != nil {
			t.Fatal(err)
		}
		patch := client.RawPatch(types.ApplyPatchType, text)
		if err := agent.SubResource("status").Patch(ctx, meshNode(node), patch, client.FieldOwner("weftnet-agent")); err != nil {
			t.Errorf("the agent of %s cannot apply its own status: %v", node, err)
		}
	}

	spec := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"podCIDRs":["10.244.9.0/24"]}}`))
	refusals := []struct {
		what string
		do   func() error
		says string
	}{
		{"A writes the status of B", func() error { return agentA.SubResource("status").Patch(ctx, meshNode("node-b"), statusPatch(2)) }, "the agent of node node-a may not write the status of MeshNode node-b"},
		{"B writes the status of A", func() error { return agentB.SubResource("status").Patch(ctx, meshNode("node-a"), statusPatch(2)) }, "the agent of node node-b may not write the status of MeshNode node-a"},
		{"a token without a node", func() error { return unbound.SubResource("status").Patch(ctx, meshNode("node-a"), statusPatch(2)) }, "names no node"},
		{"A writes its own spec", func() error { return agentA.Patch(ctx, meshNode("node-a"), spec) }, ""},
		{"A makes a MeshNode", func() error { return agentA.Create(ctx, meshNode("node-c")) }, ""},
		{"A deletes its MeshNode", func() error { return agentA.Delete(ctx, meshNode("node-a")) }, ""},
		{"A replaces its status", func() error { return agentA.SubResource("status").Update(ctx, meshNode("node-a")) }, ""},
		{"A changes a pool", func() error {
			return agentA.Create(ctx, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "evil"}, Spec: v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.9.0.0/16"}}}})
		}, ""},
		{"A reads Secrets", func() error { return agentA.List(ctx, &corev1.SecretList{}) }, ""},
		{"A reads ConfigMaps", func() error { return agentA.List(ctx, &corev1.ConfigMapList{}) }, ""},
		{"A changes a Pod", func() error {
			return agentA.Patch(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "agent-node-b", Namespace: namespace}}, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`)))
		}, ""},
		{"A changes a Node", func() error {
			return agentA.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`)))
		}, ""},
	}
	for _, r := range refusals {
		err := r.do()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), r.says) {
			t.Errorf("%s: want it forbidden with %q, got: %v", r.what, r.says, err)
		}
	}
	for node, want := range map[string]int32{"node-a": 51820, "node-b": 51820} {
		got := meshNode(node)
		if err := c.admin.Get(ctx, client.ObjectKeyFromObject(got), got); err != nil || got.Status.ListenPort != want || len(got.Spec.PodCIDRs) != 0 {
			t.Errorf("%s is now %+v (%v)", node, got, err)
		}
	}
}

// rulesAre compares all that the ServiceAccounts may do, in every namespace that matters, with a
// list that a person has read. What every authenticated user may do is left out.
func rulesAre(c *cluster) {
	c.admitDefault()
	var lines []string
	for _, account := range []string{"weftnet-agent", "weftnet-operator", "weftnet-wireguard"} {
		common := c.rules(c.tokenClient("default", ""), namespace)
		who := c.tokenClient(account, "")
		everywhere := c.rules(who, "kube-system")
		lines = append(lines, account+":")
		lines = append(lines, indentAll(without(everywhere, common))...)
		for _, ns := range []string{namespace, "default"} {
			if own := without(without(c.rules(who, ns), everywhere), common); len(own) > 0 {
				lines = append(lines, "  in "+ns+":")
				lines = append(lines, indentAll(indentAll(own))...)
			}
		}
	}
	golden(c.t, "rules.txt", lines)
}

// admitDefault makes the ServiceAccount that shows what everybody may do; no controller makes it here.
func (c *cluster) admitDefault() {
	c.t.Helper()
	if err := c.admin.Create(c.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: namespace}}); err != nil {
		c.t.Fatal(err)
	}
}

// rights are all that an account may do with resources, one verb and resource each, but for what everybody may.
func (c *cluster) rights(account string) []string {
	c.t.Helper()
	may := func(who string) (all []string) {
		for _, ns := range []string{namespace, "default"} {
			for _, r := range c.review(c.tokenClient(who, ""), ns).ResourceRules {
				for _, group := range r.APIGroups {
					for _, resource := range r.Resources {
						for _, verb := range r.Verbs {
							all = append(all, rightOf(verb, group, resource))
						}
					}
				}
			}
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	return without(may(account), may("default"))
}

// rules asks the API server what the client may do in a namespace.
func (c *cluster) rules(who client.Client, ns string) []string {
	c.t.Helper()
	var lines []string
	status := c.review(who, ns)
	for _, r := range status.ResourceRules {
		line := fmt.Sprintf("%v %v %v", r.Verbs, r.APIGroups, r.Resources)
		if len(r.ResourceNames) > 0 {
			line += fmt.Sprintf(" named %v", r.ResourceNames)
		}
		lines = append(lines, line)
	}
	for _, r := range status.NonResourceRules {
		lines = append(lines, fmt.Sprintf("%v %v", r.Verbs, r.NonResourceURLs))
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

func (c *cluster) review(who client.Client, ns string) authorizationv1.SubjectRulesReviewStatus {
	c.t.Helper()
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}
	if err := who.Create(c.t.Context(), review); err != nil {
		c.t.Fatal(err)
	}
	if review.Status.Incomplete {
		c.t.Fatalf("the list of rules is incomplete: %s", review.Status.EvaluationError)
	}
	return review.Status
}

func without(lines, some []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return slices.Contains(some, l) })
}

func indentAll(lines []string) []string {
	indented := make([]string, len(lines))
	for i, l := range lines {
		indented[i] = "  " + l
	}
	return indented
}

// soon bounds what must end by itself.
const soon = 20 * time.Second
