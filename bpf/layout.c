// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* No program: all maps in one object, from which user space makes them and gets the types. */
#include "skep/maps.h"

/* Enums reach BTF through a variable of their type. */
enum reason skep_enum_reason;
enum ct_flag skep_enum_ct_flag;
enum ct_tcp skep_enum_ct_tcp;
enum endpoint_flag skep_enum_endpoint_flag;
enum state_flag skep_enum_state_flag;
enum set_flag skep_enum_set_flag;
enum action skep_enum_action;
enum rule_flag skep_enum_rule_flag;
enum view skep_enum_view;
enum direction skep_enum_direction;
enum event_type skep_enum_event_type;
enum address_flag skep_enum_address_flag;
enum node_flag skep_enum_node_flag;
struct ct_expire skep_struct_ct_expire;
struct address_change skep_struct_address_change;
struct endpoint_change skep_struct_endpoint_change;
struct event skep_struct_event;
enum check_flag skep_enum_check_flag;
struct check_side skep_struct_check_side;
struct check skep_struct_check;

char _license[] SEC("license") = "Dual BSD/GPL";
