#pragma once
// libpcap and linux/bpf.h each have a struct bpf_insn of their own: the one of libpcap goes by another name here.
#define bpf_insn pcap_bpf_insn
#include <pcap/pcap.h>
#undef bpf_insn
