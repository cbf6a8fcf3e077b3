variable "password" {
  type      = string
  sensitive = true
  default   = "not-a-secret-1"
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
  input = { replicas = 2, region = "eu-central-1" }
}

resource "terraform_data" "credentials" {
  input = { password = var.password, port = var.port, user = "app" }
}

resource "terraform_data" "whole" {
  input = var.password
}

resource "terraform_data" "replaced" {
  triggers_replace = ["v1"]
}

resource "terraform_data" "replaced_first" {
  triggers_replace = ["v1"]
  lifecycle {
    create_before_destroy = true
  }
}

resource "terraform_data" "dropped" {
  input = ["a", "b"]
}

resource "terraform_data" "forgotten" {
  input = "left without a keeper"
}

resource "terraform_data" "old_name" {
  input = "moved"
}

resource "terraform_data" "each" {
  for_each = toset(["a/b", "c~d", "e\"f"])
  input    = each.key
}

module "shop" {
  source = "./shop"
  image  = "shop:1"
}

output "region" { value = terraform_data.scaled.output.region }

output "password" {
  value     = var.password
  sensitive = true
}
