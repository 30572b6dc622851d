//go:build linux && bench

package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/harness"
)

const (
	// batch of Services in one transaction: of three objects each, and etcd takes 128.
	batch = 40
	// workers that write.
	workers = 4
	// seenLimit is how long the API server may take to hear of what was written.
	seenLimit = 2 * time.Minute
)

// store writes Services into etcd, in the form in which the API server keeps them: making 40,000
// through the API server takes many minutes, and its work is not what is measured. The first is
// made through the API server, and is the pattern of all others.
type store struct {
	etcd    *clientv3.Client
	encoder runtime.Encoder
	service *corev1.Service
	slice   *discoveryv1.EndpointSlice
}

func newStore(t *testing.T, url string) *store {
	t.Helper()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	scheme := apiserver.Scheme(t)
	return &store{etcd: etcd, encoder: protobuf.NewSerializer(scheme, scheme)}
}

// clusterIP is the address of a Service by its number, above those that the API server draws first.
func clusterIP(number int) netip.Addr {
	b := netip.MustParsePrefix(apiserver.ServiceCIDRv4).Addr().As4()
	return netip.AddrFrom4([4]byte{b[0], b[1], byte(1 + number>>8), byte(number)})
}

func serviceName(number int) string { return fmt.Sprintf("s-%05d", number) }

// pattern makes the first Service through the API server.
func (w *world) pattern(ctx context.Context) error {
	service := serviceFor(serviceName(0))
	service.Spec.ClusterIP = clusterIP(0).String()
	slice := sliceFor(serviceName(0), discoveryv1.AddressTypeIPv4, addressesOf(0)...)
	for _, o := range []client.Object{service, slice} {
		if err := w.lab.Client.Create(ctx, o); err != nil {
			return fmt.Errorf("create the first Service: %w", err)
		}
	}
	w.store.service, w.store.slice = service, slice
	w.slices = append(w.slices, lean(slice))
	return nil
}

// lean is what the benchmark keeps of a slice.
func lean(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	out := s.DeepCopy()
	out.ManagedFields = nil
	return out
}

// fill makes Services until there are so many, and waits until the API server knows them.
func (w *world) fill(ctx context.Context, size int) error {
	begun := len(w.slices)
	for len(w.slices) < size {
		w.slices = append(w.slices, nil)
	}
	var next, latest atomic.Int64
	next.Store(int64(begun))
	errs := make([]error, workers)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			for from := int(next.Add(batch)) - batch; from < size && errs[i] == nil; from = int(next.Add(batch)) - batch {
				errs[i] = w.write(ctx, from, min(from+batch, size), &latest)
			}
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return w.seen(ctx, latest.Load())
}

// write puts some Services into etcd in one transaction, and raises latest to its revision.
func (w *world) write(ctx context.Context, from, to int, latest *atomic.Int64) error {
	var ops []clientv3.Op
	for number := from; number < to; number++ {
		more, err := w.store.objects(number, w.slices)
		if err != nil {
			return fmt.Errorf("make Service %d: %w", number, err)
		}
		ops = append(ops, more...)
	}
	answer, err := w.store.etcd.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return fmt.Errorf("write Services %d to %d: %w", from, to, err)
	}
	revision := answer.Header.Revision
	for number := from; number < to; number++ {
		w.slices[number].ResourceVersion = strconv.FormatInt(revision, 10)
	}
	for seen := latest.Load(); seen < revision && !latest.CompareAndSwap(seen, revision); seen = latest.Load() {
	}
	return nil
}

// objects of a Service: itself, its slice, and its address, which the API server would else
// repair.
func (s *store) objects(number int, slices []*discoveryv1.EndpointSlice) ([]clientv3.Op, error) {
	name, ip := serviceName(number), clusterIP(number).String()
	meta := func(m *metav1.ObjectMeta, of string) {
		m.Name, m.UID, m.ResourceVersion, m.CreationTimestamp = of, uuid.NewUUID(), "", metav1.Now().Rfc3339Copy()
	}
	service := s.service.DeepCopy()
	meta(&service.ObjectMeta, name)
	service.Spec.ClusterIP, service.Spec.ClusterIPs = ip, []string{ip}
	slice := s.slice.DeepCopy()
	meta(&slice.ObjectMeta, name)
	slice.Labels[discoveryv1.LabelServiceName] = name
	slice.Endpoints = sliceFor(name, slice.AddressType, addressesOf(number)...).Endpoints
	slices[number] = lean(slice)
	address := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{networkingv1.LabelIPAddressFamily: "IPv4", networkingv1.LabelManagedBy: "ipallocator.k8s.io"}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: name}},
	}
	meta(&address.ObjectMeta, ip)
	service.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Service"))
	slice.SetGroupVersionKind(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"))
	address.SetGroupVersionKind(networkingv1.SchemeGroupVersion.WithKind("IPAddress"))
	var ops []clientv3.Op
	for key, o := range map[string]runtime.Object{
		"services/specs/" + namespace + "/" + name: service, "endpointslices/" + namespace + "/" + name: slice, "ipaddresses/" + ip: address,
	} {
		var b bytes.Buffer
		if err := s.encoder.Encode(o, &b); err != nil {
			return nil, fmt.Errorf("encode %s: %w", key, err)
		}
		ops = append(ops, clientv3.OpPut("/registry/"+key, b.String()))
	}
	return ops, nil
}

// seen waits until what the API server lists from memory is as new as what was written.
func (w *world) seen(ctx context.Context, revision int64) error {
	raw := &metav1.ListOptions{ResourceVersion: strconv.FormatInt(revision, 10), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}
	return harness.Eventually(ctx, seenLimit, "the API server to know every Service", func(ctx context.Context) error {
		for _, list := range []client.ObjectList{&corev1.ServiceList{}, &discoveryv1.EndpointSliceList{}} {
			if err := w.lab.Client.List(ctx, list, &client.ListOptions{Limit: 1, Raw: raw}); err != nil {
				return fmt.Errorf("list: %w", err)
			}
		}
		return nil
	})
}
