package controllers

import (
	"strings"
	"testing"
	"unicode/utf8"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// TestNetworkPolicyEvents: what cannot be honoured is told once for each generation, with its field.
func TestNetworkPolicyEvents(t *testing.T) {
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	bad := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "bad", UID: "1", Generation: 1}}
	bad.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "nonsense"}}}}}
	good := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "good", UID: "2", Generation: 1}}
	recorder := events.NewFakeRecorder(16)
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(bad, good).Build()
	r := &networkPolicyReconciler{client: c, events: recorder, told: map[types.NamespacedName]judged{}}
	judge := func() (told []string) {
		t.Helper()
		for _, name := range []string{"bad", "good", "gone"} {
			request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: name}}
			if _, err := r.Reconcile(t.Context(), request); err != nil {
				t.Fatal(err)
			}
		}
		for {
			select {
			case e := <-recorder.Events:
				told = append(told, e)
			default:
				return told
			}
		}
	}
	told := judge()
	if len(told) != 1 || !strings.Contains(told[0], "NotHonoured") || !strings.Contains(told[0], "spec.ingress[0].from[0].ipBlock.cidr") {
		t.Errorf("told %q", told)
	}
	if told := judge(); len(told) != 0 {
		t.Errorf("told again %q", told)
	}
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: "shop", Name: "bad"}, bad); err != nil {
		t.Fatal(err)
	}
	bad.Generation = 2
	if err := c.Update(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	if told := judge(); len(told) != 1 {
		t.Errorf("of the next generation told %q", told)
	}
	if err := c.Delete(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	if told := judge(); len(told) != 0 || len(r.told) != 1 {
		t.Errorf("of a policy that is gone told %q; remembered are %v", told, r.told)
	}
}

// TestNote : the API refuses an event whose note is longer than 1,024 bytes.
func TestNote(t *testing.T) {
	if short := "spec.tier: unknown"; note(short) != short {
		t.Errorf("%q became %q", short, note(short))
	}
	long := note(strings.Repeat("é", 2000))
	if len(long) > 1024 || !utf8.ValidString(long) || !strings.HasSuffix(long, "é ...") {
		t.Errorf("a long text became %d bytes, %q at the end", len(long), long[len(long)-8:])
	}
}
