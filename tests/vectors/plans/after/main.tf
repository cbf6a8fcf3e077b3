variable "password" {
  type      = string
  sensitive = true
  default   = "not-a-secret-2"
}

variable "port" {
  type      = number
  sensitive = true
  default   = 5432
}

resource "terraform_data" "kept" {
  input = "stays"
}

resource "terraform_data" "scaled" {
  input = { replicas = 20, region = "eu-central-1" }
}

resource "terraform_data" "credentials" {
  input = { password = var.password, port = var.port, user = "app" }
}

resource "terraform_data" "whole" {
  input = var.password
}

resource "terraform_data" "replaced" {
  triggers_replace = ["v2"]
}

resource "terraform_data" "replaced_first" {
  triggers_replace = ["v2"]
  lifecycle {
    create_before_destroy = true
  }
}

removed {
  from = terraform_data.forgotten
  lifecycle {
    destroy = false
  }
}

resource "terraform_data" "new_name" {
  input = "moved"
}

moved {
  from = terraform_data.old_name
  to   = terraform_data.new_name
}

resource "terraform_data" "each" {
  for_each = toset(["a/b", "c~d", "e\"f"])
  input    = "${each.key}!"
}

resource "terraform_data" "imported" {}

import {
  to = terraform_data.imported
  id = "11111111-2222-3333-4444-555555555555"
}

resource "terraform_data" "late" {
  input = {
    known = "yes"
    list  = ["first", terraform_data.replaced.id]
    id    = terraform_data.replaced.id
  }
}

data "terraform_remote_state" "other" {
  backend = "local"
  config  = { path = "${path.module}/${terraform_data.replaced.id}.tfstate" }
}

module "shop" {
  source = "./shop"
  image  = "shop:2"
}

output "region" { value = terraform_data.scaled.output.region }

output "password" {
  value     = var.password
  sensitive = true
}

output "late" { value = terraform_data.replaced.id }
