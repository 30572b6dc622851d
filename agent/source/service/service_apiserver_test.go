//go:build apiserver

package service

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/test/apiserver"
)

// TestAgainstARealAPIServer reads in protobuf, leaves out what is another's, and follows changes.
func TestAgainstARealAPIServer(t *testing.T) {
	server := apiserver.Start(t)
	client := apiserver.Client(t, server.Config)
	ctx, cancel := context.WithCancel(t.Context())
	meta := func(name string, labels map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "default", Name: name, Labels: labels}
	}
	spec := corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}
	if err := client.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}); err != nil {
		t.Fatal(err)
	}
	for _, o := range []*corev1.Service{
		{ObjectMeta: meta("shop", nil), Spec: spec},
		{ObjectMeta: meta("others", map[string]string{"service.kubernetes.io/service-proxy-name": "other"}), Spec: spec},
		{ObjectMeta: meta("headless", nil), Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: spec.Ports}},
	} {
		if err := client.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	s, err := New(Config{Node: "node1", REST: server.Config})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	eventually := func(what string, ok func() bool) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for !ok() {
			select {
			case <-s.Changed():
			case <-time.After(20 * time.Millisecond): // not everything is told
			case <-deadline:
				t.Fatalf("%s: not within 30 s; Services %v", what, s.Names())
			}
		}
	}
	eventually("in sync", func() bool { return s.Synced() && len(s.CIDRs()) == 2 })
	names := s.Names()
	slices.SortFunc(names, snapshot.ServiceName.Compare)
	shop := snapshot.ServiceName{Namespace: "default", Name: "shop"}
	if want := []snapshot.ServiceName{{Namespace: "default", Name: "kubernetes"}, shop}; !slices.Equal(names, want) {
		t.Errorf("Services are %v, want %v", names, want)
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: meta("shop-1", map[string]string{discoveryv1.LabelServiceName: "shop"}), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}},
	}
	slice.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().UTC().Format(time.RFC3339Nano)}
	s.Take()
	if err := client.Create(ctx, slice); err != nil {
		t.Fatal(err)
	}
	eventually("the slice", func() bool { _, list, _ := s.Get(shop); return len(list) == 1 && len(list[0].Endpoints) == 1 })
	if c := s.Take(); len(c.Triggers[shop]) != 1 || c.SliceEvents != 1 {
		t.Errorf("changes are %+v", c)
	}
	if err := client.Delete(ctx, &corev1.Service{ObjectMeta: meta("shop", nil)}); err != nil {
		t.Fatal(err)
	}
	eventually("the Service gone", func() bool { _, _, ok := s.Get(shop); return !ok })
}
