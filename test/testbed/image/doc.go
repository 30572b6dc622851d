// Package image writes OCI archives, without a container engine and without a registry: a tar of oci-layout, index.json and blobs that
// `ctr images import` reads. The same content always gives the same digests.
//
// It makes the testbed's images (pause, CoreDNS, those of the upstream end-to-end suite) and Weftnet's own.
package image
